"""Records hold all that makes a number believable; numbers and hostile words are written harmlessly."""

import json
import math

import pytest

from edgedistill.errors import RunError
from edgedistill.records import DASH, Record, show, show_spread, visible
from tests.report.sample import COMMAND, MACHINE, sha

GOOD = {
    "what": "decode_tokens_per_s",
    "value": 117.3,
    "unit": "tokens/s",
    "trials": 5,
    "spread": 2.1,
    "artifact": "q4_0 recovered",
    "file_sha256": sha("x"),
    "runtime": "llama.cpp",
    "machine": MACHINE,
    "command": COMMAND,
    "text": None,
}


def test_a_record_survives_json():
    record = Record(**GOOD)
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert record.to_dict() == GOOD


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": math.nan}, "value is nan; it must be a finite number"),
        ({"value": True}, "value is True; it must be a finite number"),
        ({"value": "117"}, "value is '117'; it must be a finite number"),
        ({"file_sha256": "abc"}, "file_sha256 is 'abc'; it must be 64 hex digits"),
        ({"trials": 0}, "trials is 0; it must be 1 or more"),
        ({"spread": -1.0}, "spread is -1.0; it must be null or 0 or more"),
        ({"command": " "}, "command is ' '; it must be a text that is not empty"),
        ({"machine": None}, "machine is None; it must be an object"),
        ({"text": 3}, "text is 3; it must be null or a name"),
        ({"speed": 3}, "record of 'decode_tokens_per_s' holds 'speed'; its keys are what, value, unit"),
    ],
)
def test_an_impossible_record_is_refused_by_name(change, words):
    with pytest.raises(RunError) as error:
        Record.from_dict({**GOOD, **change})
    assert words in str(error.value)


def test_a_record_that_lacks_its_hash_is_refused():
    with pytest.raises(RunError, match="lacks 'file_sha256'; only trials, spread, text may be left out"):
        Record.from_dict({name: value for name, value in GOOD.items() if name != "file_sha256"})
    with pytest.raises(RunError, match="a record is list; it must be an object with what, value"):
        Record.from_dict([])


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (91_712_345, "bytes", "91.7 MB"),
        (999.6e6, "bytes", "1.00 GB"),
        (512, "bytes", "512 B"),
        (0, "bytes", "0 B"),
        (0.553, "share", "55 %"),
        (-0.03, "share", "−3.0 %"),
        (0.0, "share", "0 %"),
        (1.0, "share", "100 %"),
        (117.26, "tokens/s", "117 tokens/s"),
        (8.314, "tokens/s", "8.31 tokens/s"),
        (99.97, "tokens/s", "100 tokens/s"),
        (18.2, "perplexity", "18.20"),
        (0.0043, "nats per token", "0.0043"),
        (1.51, "nats per token", "1.51"),
        (0.00001, "nats per token", "<0.0001"),
        (0, "nats per token", "0"),
        (0.42, "s", "0.42 s"),
        (843, "s", "14 min 3 s"),
        (9000, "s", "2 h 30 min"),
        (133123, "count", "133\u202f123"),
        (5.354, "bits", "5.35"),
        (None, "bytes", DASH),
        (math.nan, "s", DASH),
        (math.inf, "share", DASH),
        ("7", "", DASH),
    ],
)
def test_numbers_have_sensible_digits_and_their_unit(value, unit, words):
    assert show(value, unit) == words


def test_a_spread_has_the_decimals_of_its_mean():
    assert show_spread(117.3, 2.35) == "117 ± 2"
    assert show_spread(66.9, 1.34) == "66.9 ± 1.3"
    assert show_spread(66.9, None) == "66.9"
    assert show_spread(None, 1.0) == DASH


def test_hostile_text_keeps_nothing_that_acts():
    assert visible("\x1b[31mred\x07") == "␛[31mred␇"
    assert visible("a\u202eb\u200bc\x9bd") == "a⟨U+202E⟩b⟨U+200B⟩c⟨U+009B⟩d"
    assert visible("half \ud83d pair") == "half \ufffd pair"
    assert visible("one\r\ntwo\tthree\rfour") == "one\ntwo    three␍four"
    assert visible("one\ntwo", lines=False) == "one two"
    assert visible("naïve café 東京 👩‍💻") == "naïve café 東京 👩‍💻"
