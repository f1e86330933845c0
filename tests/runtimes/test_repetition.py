"""The guard against loops stops those, and no text that only looks like one."""

from pathlib import Path

import pytest

from edgedistill.runtimes.repetition import RepetitionGuard, repeats

LOOPS = [
    "Paris is the capital. " * 8,
    "Sure! " + "I can help you with that, and with all that you would like to know about it today.\n" * 3,
    "It is " + "very " * 32,
    "=" * 160,
    "1, 2, 1, 2, " * 14,
]
FINE = [
    "Row, row, row your boat, gently down the stream.\n" * 2,
    "| a | b |\n|---|---|\n" + "".join(f"| {n} | {n * n} |\n" for n in range(40)),
    "0000000000000000",
    "-" * 100,
    "",
]


@pytest.mark.parametrize("text", LOOPS)
def test_a_loop_is_seen_however_it_is_cut_into_pieces(text: str):
    assert repeats(text)
    for size in (1, 7):
        guard = RepetitionGuard()
        assert any([guard.add(text[start : start + size]) for start in range(0, len(text), size)])


@pytest.mark.parametrize("text", FINE)
def test_what_only_looks_like_one_passes(text: str):
    guard = RepetitionGuard()
    assert not any([guard.add(character) for character in text])


def test_prose_passes():
    import edgedistill.data

    prose = (Path(edgedistill.data.__file__).parent / "texts" / "judge.txt").read_text(encoding="utf-8")[:30_000]
    guard = RepetitionGuard()
    assert not any([guard.add(prose[start : start + 4]) for start in range(0, len(prose), 4)])
