"""Records hold all that makes a number believable; numbers and hostile words are written harmlessly."""

import json
import math

import pytest

from edgedistill.errors import RunError
from edgedistill.results.record import Record
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
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert record.to_json() == GOOD


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
        Record.from_json({**GOOD, **change})
    assert words in str(error.value)


def test_a_record_that_lacks_its_hash_is_refused():
    with pytest.raises(RunError, match="lacks 'file_sha256'; only trials, spread, text may be left out"):
        Record.from_json({name: value for name, value in GOOD.items() if name != "file_sha256"})
    with pytest.raises(RunError, match="a record is list; it must be an object with what, value"):
        Record.from_json([])
