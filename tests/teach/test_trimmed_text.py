"""Training text in a smaller vocabulary: the same texts by other numbers, and what is left out."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from edgedistill.config.teach import Teach
from edgedistill.data.example import Example, counted_from
from edgedistill.data.prose import passages
from edgedistill.errors import RunError
from edgedistill.losses.teachers import TopKTeacher
from edgedistill.progress import QuietProgress
from edgedistill.signals.shards import iter_shards, save_shard, shard_path
from edgedistill.signals.sources import Shared
from edgedistill.teach.trimmed_text import Prose, Renumbering, write_trimmed_text

KEPT = torch.tensor([0, 2, 3, 7, 9])


class Known:
    """A source that has its view already."""

    def __init__(self, teacher: TopKTeacher) -> None:
        self.teacher = teacher

    def view(self, batch: object) -> TopKTeacher:
        return self.teacher


def example(ids: list[int], top: list[list[int]], trace_id: str = "a") -> Example:
    log_probs = torch.log_softmax(-torch.arange(len(top[0])).float(), -1).expand(len(top), -1).half()
    signal = {"ids": torch.tensor(top, dtype=torch.int32), "log_probs": log_probs.contiguous()}
    return counted_from(torch.tensor(ids, dtype=torch.int32), 0, signal, trace_id)


def taught(folder: Path, train: list[Example], judge: list[Example]) -> Path:
    for split, examples in (("train", train), ("validation", train), ("judge", judge)):
        (folder / split).mkdir(parents=True)
        save_shard(shard_path(folder / split, 0), examples)
    (folder / "teach.json").write_text(json.dumps({"asked": 3, "kept": 3, "train_tokens": 9}))
    return folder


def test_ids_are_renumbered_and_back(tmp_path: Path):
    numbers = Renumbering(KEPT)
    assert numbers.new(torch.tensor([9, 0, 3])).tolist() == [4, 0, 2]
    assert numbers.new(torch.tensor([1, 8, 10, 4000])).tolist() == [5, 5, 5, 5]
    assert numbers.old(torch.tensor([4, 0, 2])).tolist() == [9, 0, 3]


def test_texts_keep_their_words_and_signals(tmp_path: Path):
    whole = example([2, 7, 9], [[7, 2, 3], [9, 1, 0]])
    folder = taught(tmp_path / "taught", [whole, example([2, 4, 9], [[4, 2, 3], [9, 1, 0]], "b")], [whole])
    work = tmp_path / "work"
    work.mkdir()
    write_trimmed_text(folder, KEPT, None, work, QuietProgress())
    (left,) = iter_shards(work / "train")
    assert KEPT[left.tokens.long()].tolist() == [2, 7, 9]
    assert left.signal["ids"].tolist() == [[3, 1, 2], [4, 5, 0]]
    assert torch.equal(left.signal["log_probs"], whole.signal["log_probs"])
    assert left.trace_id == "a"
    counts = json.loads((work / "teach.json").read_text())
    assert counts["train_tokens"] == 3
    assert counts["lost_tokens"] == 4


def test_a_likely_token_that_is_gone_leaves_its_share_to_the_others():
    text = example([2, 7, 9], [[7, 2, 3], [9, 1, 0]])
    renumbered = Renumbering(KEPT).example(text)
    assert renumbered is not None
    source = Known(TopKTeacher(renumbered.signal["ids"], renumbered.signal["log_probs"]))
    shared = Shared(source, len(KEPT)).view(None)  # type: ignore[arg-type]
    assert isinstance(shared, TopKTeacher)
    assert shared.ids.tolist() == [[3, 1], [4, 0]]
    probabilities = text.signal["log_probs"][1].float().exp()
    expected = probabilities[[0, 2]] / (1 - probabilities[1])
    torch.testing.assert_close(shared.log_probs[1].exp(), expected, rtol=1e-3, atol=1e-4)


def test_a_split_without_a_text_left_is_refused(tmp_path: Path):
    folder = taught(tmp_path / "taught", [example([2, 7, 9], [[7], [9]])], [example([2, 4], [[4]])])
    (tmp_path / "work").mkdir()
    with pytest.raises(RunError, match="none of the judge text has only tokens of the student's vocabulary of 5"):
        write_trimmed_text(folder, KEPT, None, tmp_path / "work", QuietProgress())


def test_prose_is_read_anew_where_its_signals_are_done_with(tiny_llama: Path, tmp_path: Path):
    """Hardly a piece has only words that are left; read anew, it is spelled in those that are."""
    whole = example([2, 7, 9], [[7, 2, 3], [9, 1, 0]])
    folder = taught(tmp_path / "taught", [whole], [whole])
    (folder / "prose-train").mkdir()
    save_shard(shard_path(folder / "prose-train", 0), [example([2, 4, 9], [[4, 2, 3], [9, 1, 0]])])
    work = tmp_path / "work"
    work.mkdir()
    prose = Prose(tiny_llama, Teach(text_tokens=200, text_window=64, holdout=0.3))
    write_trimmed_text(folder, KEPT, prose, work, QuietProgress())
    pieces = list(iter_shards(work / "prose-train"))
    read = "".join(AutoTokenizer.from_pretrained(tiny_llama).decode(piece.tokens) for piece in pieces)
    assert read[:60] in "".join(block for passage in passages("train", None) for block in passage.blocks())
    # Texts are read together, so that either all have a signal or none has.
    assert not any(text.signal for text in (*pieces, *iter_shards(work / "train")))
    counts = json.loads((work / "teach.json").read_text())
    assert counts["prose_tokens"] == sum(piece.kept for piece in pieces)
    assert counts["train_tokens"] == 3 + sum(len(piece.tokens) for piece in pieces)
