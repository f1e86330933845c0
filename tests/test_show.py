"""Numbers and foreign text as people read them."""

import math

import pytest

from edgedistill.show import DASH, show, show_spread, visible


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
        (4.0, "s", "4.0 s"),
        (45, "s", "45 s"),
        (99.4, "s", "99 s"),
        (99.6, "s", "2 min"),
        (843, "s", "14 min"),
        (3599, "s", "1 h"),
        (4800, "s", "1 h 20 min"),
        (9000, "s", "2 h 30 min"),
        (104_000, "s", "29 h"),
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
