"""Traces come back from both kinds of file, and a prompt lies in one split however often it is asked."""

import dataclasses

import pytest

from edgedistill.data.trace import (
    SPLITS,
    Holdout,
    Sampling,
    Trace,
    Turn,
    Verdict,
    load_traces,
    prompt_id_of,
    save_traces,
    split_of,
)
from edgedistill.errors import RunError

FULL = Trace(
    "written-00000-00001",
    prompt_id_of("Why?"),
    (
        Turn("system", "Be kind.", train=0.0),
        Turn("user", "Warum „so“?\n", train=0.0),
        Turn("assistant", "猫", "hm", 0.5),
    ),
    "tiny",
    Sampling(0.8, 0.95, 2**31 - 1),
    (Verdict("filters", True), Verdict("length", False, 0.25, "too long")),
    "written",
)
BARE = Trace("b", "0" * 16, (Turn("text", "Once"),))


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_traces_come_back_as_they_were(tmp_path, name: str):
    save_traces(tmp_path / name, [FULL, BARE])
    assert list(load_traces(tmp_path / name)) == [FULL, BARE]
    save_traces(tmp_path / f"none-{name}", [])
    assert list(load_traces(tmp_path / f"none-{name}")) == []


def test_parquet_is_read_by_others(tmp_path):
    from pyarrow import parquet

    save_traces(tmp_path / "t.parquet", [BARE, FULL])
    rows = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert rows == [
        dataclasses.asdict(trace)
        | {
            "turns": [dataclasses.asdict(turn) for turn in trace.turns],
            "verdicts": [dataclasses.asdict(verdict) for verdict in trace.verdicts],
        }
        for trace in (BARE, FULL)
    ]


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_a_broken_file_is_named(tmp_path, name: str):
    (tmp_path / name).write_text('{"id": 3')
    with pytest.raises(RunError, match=rf"{name}: not a shard of traces"):
        list(load_traces(tmp_path / name))


def test_a_question_asked_twice_has_one_split():
    holdout = Holdout(0.3, 0.3)
    for number in range(200):
        splits = {
            split_of(prompt_id_of(text), holdout)
            for text in (f"What is {number}?", f"what  is {number}", f"What is {number}!")
        }
        assert len(splits) == 1


def test_splits_have_their_shares_and_none_goes_from_validation_to_judge():
    ids = [prompt_id_of(f"question {number}") for number in range(20_000)]
    few, many = Holdout(0.05, 0.1), Holdout(0.2, 0.4)
    splits = [split_of(each, few) for each in ids]
    assert [splits.count(split) / len(ids) for split in SPLITS] == pytest.approx([0.85, 0.05, 0.1], abs=0.006)
    moved = {(split_of(each, few), split_of(each, many)) for each in ids}
    assert moved <= {
        ("train", "train"),
        ("train", "validation"),
        ("train", "judge"),
        ("validation", "validation"),
        ("judge", "judge"),
    }
    assert {split_of(each, Holdout(0.0, 1.0)) for each in ids} == {"judge"}
    assert {split_of(each, Holdout(0.0, 0.0)) for each in ids} == {"train"}


@pytest.mark.parametrize("count", [3, 5, 8, 40])
def test_few_prompts_still_have_all_splits(count: int):
    for start in range(60):
        ids = [prompt_id_of(f"{start} {number}") for number in range(count)]
        covering = Holdout(0.08, 0.02).covering(ids)
        splits = [split_of(each, covering) for each in ids]
        assert set(splits) == set(SPLITS)
        assert count < 8 or min(splits.count("validation"), splits.count("judge")) >= 2
