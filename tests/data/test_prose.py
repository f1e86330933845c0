"""Texts are cut so that no passage is in two splits, each file into all three, and long ones into pieces that lose
nothing.
"""

import random
from pathlib import Path

import pytest

from edgedistill.data.prose import BLOCK_BYTES, ProseWords, cut_text, passages, plan_stretches, read_prose
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
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.005)


def test_prose_that_comes_along_has_three_splits_of_its_own():
    texts = {split: read_prose(split, None) for split in SPLITS}
    assert all(len(found) == 1 and len(found[0]) > 10_000 for found in texts.values())
    sentences = [{s for s in found[0].split(". ") if len(s) > 40} for found in texts.values()]
    assert len(set.union(*sentences)) == sum(map(len, sentences))


def test_a_short_or_missing_file_is_named(tmp_path: Path):
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(
        InputError,
        match=r"short\.txt: 9 bytes are too few to train, validate and judge on; it needs at least 2000",
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


def test_a_budget_is_taken_evenly_over_the_whole_part(tmp_path: Path, tiny_llama: Path):
    path = tmp_path / "long.txt"
    path.write_text("\n".join(f"line {number:06d} of the text" for number in range(40_000)), encoding="utf-8")
    tokenizer = load_tokenizer(tiny_llama)
    stretches = plan_stretches("train", [str(path)], 4000, 64)
    pieces = [piece for stretch in stretches for piece in stretch.pieces(tokenizer, 64)]
    assert sum(map(len, pieces)) == pytest.approx(4000, rel=0.02)
    assert all(2 <= len(piece) <= 64 for piece in pieces)
    (part,) = passages("train", [str(path)])
    places = [(stretch.passage.start - part.start) / (part.stop - part.start) for stretch in stretches]
    assert places == pytest.approx([number / len(stretches) for number in range(len(stretches))], abs=0.001)
    assert len(stretches) > 10


def test_a_budget_beyond_the_text_takes_all_of_it(files: list[str], tiny_llama: Path):
    tokenizer = load_tokenizer(tiny_llama)
    stretches = plan_stretches("train", files, 10**6, 64)
    ids = [token for stretch in stretches for piece in stretch.pieces(tokenizer, 64) for token in piece]
    assert str(tokenizer.decode(ids)) == "".join(read_prose("train", files))


def test_blocks_are_the_passage_whatever_their_borders_fall_into(tmp_path: Path):
    contents = {"words": "word " * 30_000, "lines": "a line\n\n" * 20_000, "characters": "猫" * 40_000}
    for name, content in contents.items():
        path = tmp_path / f"{name}.txt"
        path.write_text(content, encoding="utf-8")
        parts = [part for split in SPLITS for part in passages(split, [str(path)])]
        assert "".join(part.text() for part in parts) == content
        blocks = list(parts[0].blocks())
        assert len(blocks) > 1
        assert max(map(len, blocks)) <= BLOCK_BYTES + 4096
        assert "".join(stretch.text() for stretch in parts[0].stretches(7)) == parts[0].text()


def test_words_are_drawn_from_the_passages_alone(files: list[str]):
    words = ProseWords(passages("train", files))
    rng = random.Random(5)
    text = " ".join(read_prose("train", files))
    drawn = [words.draw(rng, 4) for _ in range(50)]
    assert all(each in text and len(each.split()) == 4 for each in drawn)
    assert {each[0] for each in drawn} == {"a", "b"}


def test_every_text_judges_for_as_many_tokens(tiny_llama: Path, files: list[str]):
    documents = prose_documents(tiny_llama, passages("judge", files), 60)
    assert [document.kept for document in documents] == [30, 30]
    tokenizer = load_tokenizer(tiny_llama)
    assert [str(tokenizer.decode(document.tokens)).split()[-1][0] for document in documents] == ["a", "b"]
