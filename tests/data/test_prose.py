"""Texts are cut so that no passage is in two splits, each file into all three, and long ones into pieces that lose
nothing.
"""

from pathlib import Path

import pytest

from edgedistill.data.prose import cut_text, read_prose, spread
from edgedistill.errors import InputError
from edgedistill.measure.judge import prose_documents
from edgedistill.models.tokenizer import load_tokenizer

SPLITS = ("train", "validation", "judge")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two files of numbered words."""
    for name, count in (("a", 400), ("b", 1000)):
        (tmp_path / f"{name}.txt").write_text(
            " ".join(f"{name}{number:04d}" for number in range(count)), encoding="utf-8"
        )
    return [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]


def test_each_file_is_in_every_split_and_no_passage_in_two(files: list[str]):
    parts = {split: read_prose(split, files) for split in SPLITS}
    for index, file in enumerate(files):
        assert "".join(parts[split][index] for split in SPLITS) == Path(file).read_text()
        shares = [len(parts[split][index]) / len(Path(file).read_text()) for split in SPLITS]
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.001)


def test_prose_that_comes_along_has_three_splits_of_its_own():
    texts = {split: read_prose(split, None) for split in SPLITS}
    assert all(len(found) == 1 and len(found[0]) > 10_000 for found in texts.values())
    sentences = [{s for s in found[0].split(". ") if len(s) > 40} for found in texts.values()]
    assert len(set.union(*sentences)) == sum(map(len, sentences))


def test_a_short_or_missing_file_is_named(tmp_path: Path):
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(
        InputError,
        match=r"short\.txt: 9 characters are too few to train, validate and judge on; it needs at least 2000",
    ):
        read_prose("train", [str(tmp_path / "short.txt")])
    with pytest.raises(InputError, match=r"none\.txt: no such file; teach.text names UTF-8 text files"):
        read_prose("train", [str(tmp_path / "none.txt")])


def test_pieces_are_the_whole_text(tiny_llama: Path):
    tokenizer = load_tokenizer(tiny_llama)
    (text,) = read_prose("validation", None)
    pieces = cut_text(tokenizer, text, 64)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(whole) % 64 != 1  # a last piece of one token would have nothing to predict
    assert [token for piece in pieces for token in piece] == whole
    assert {len(piece) for piece in pieces[:-1]} == {64}


def test_a_piece_begins_as_the_model_knows_texts_to_begin(tiny_llama: Path):
    class AddsBos:
        """A tokenizer that puts id 1 before a text."""

        bos_token_id = 1

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            return {"input_ids": [1] * add_special_tokens + list(map(ord, text))}

    pieces = cut_text(AddsBos(), "abcdefgh", 4)  # type: ignore[arg-type]
    assert [(piece[0], "".join(map(chr, piece[1:]))) for piece in pieces] == [(1, "abc"), (1, "def"), (1, "gh")]


def test_pieces_are_taken_evenly_over_the_list():
    pieces = list(range(100))
    assert spread(pieces, [10] * 100, 250) == list(range(0, 100, 4))
    assert spread(pieces, [10] * 100, 1000) == pieces
    assert spread(pieces, [10] * 100, 1) == [0]


def test_every_text_judges_for_as_many_tokens(tiny_llama: Path, files: list[str]):
    documents = prose_documents(tiny_llama, read_prose("judge", files), 60)
    assert [document.kept for document in documents] == [30, 30]
    tokenizer = load_tokenizer(tiny_llama)
    assert [str(tokenizer.decode(document.tokens)).split()[-1][0] for document in documents] == ["a", "b"]
