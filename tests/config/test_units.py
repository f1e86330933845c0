"""Quantities with units: what is read, what is refused, how they are shown."""

import pytest

from edgedistill.units import EXAMPLES, QUANTITIES, parse, parse_count


@pytest.mark.parametrize(
    ("text", "quantity", "expected"),
    [
        ("8 GiB", "size", 8589934592),
        ("8GB", "size", 8_000_000_000),
        (" 1.5 MiB ", "size", 1572864),
        ("12 B", "size", 12),
        ("17.1 GB/s", "bandwidth", 17.1e9),
        ("400 GFLOP/s", "compute", 4e11),
        ("2_048 tokens", "length", 2048),
        ("8 tokens/s", "rate", 8),
        ("250 ms", "time", 0.25),
        ("2 min", "time", 120),
    ],
)
def test_units_are_read(text: str, quantity: str, expected: float):
    assert parse(text, quantity) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["8", "GiB", "8 gib", "8 GiB/s", "-8 GiB", "8 GiB 3", "1e3 GiB", "", None, 8, "9" * 200 + " GiB"]
)
def test_what_has_no_unit_of_the_quantity_is_refused_with_an_example(text: object):
    with pytest.raises(ValueError, match=r"it must be a number with a unit \(B, kB, .*such as '8 GiB'"):
        parse(text, "size")


def test_zero_is_refused():
    with pytest.raises(ValueError, match="it must be above 0"):
        parse("0 B", "size")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("400k", 400_000),
        ("1.5M", 1_500_000),
        ("20_000", 20_000),
        (" 7 ", 7),
        ("2 K", 2000),
        ("0.5k", 500),
        ("4.35M", 4_350_000),
    ],
)
def test_counts_are_read(text: str, expected: int):
    assert parse_count(text) == expected


@pytest.mark.parametrize("text", ["0", "0k", "-5", "1.5", "0.0005k", "k", "", "1e5", "5 tokens", "400kk", "9" * 200])
def test_what_is_no_count_is_refused_with_an_example(text: str):
    with pytest.raises(ValueError, match=r"it must be a whole number above 0, such as 400k, 1\.5M or 20000"):
        parse_count(text)


def test_every_example_is_read():
    assert set(EXAMPLES) == set(QUANTITIES)
    for quantity, text in EXAMPLES.items():
        assert parse(text, quantity) > 0
