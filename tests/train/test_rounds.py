"""On-policy rounds: which rows of a step are a model's own, when it writes, and what a killed training finds."""

from pathlib import Path

import pytest
import torch

from edgedistill.config.on_policy import OnPolicy
from edgedistill.data.example import Example, counted_from
from edgedistill.train.rounds import RoundPlan, Rounds

SEQ = 16


def plan_of(every: int, share: float, rows: int = 4, seed: int = 1) -> RoundPlan:
    return RoundPlan(OnPolicy(every=every, share=share), rows, SEQ, seed, "distill.seq_len")


class Author:
    """Writes six texts a round, whose first token says which; remembers what it was asked."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def __call__(self, seed: int) -> list[Example]:
        self.seeds.append(seed)
        torch.manual_seed(seed)
        texts = [torch.randint(3, 90, (8,), dtype=torch.int32) for _ in range(6)]
        return [counted_from(text, 2, {"ids": torch.zeros(5, 1, dtype=torch.int32)}) for text in texts]


@pytest.mark.parametrize(("rows", "share"), [(4, 0.5), (1, 0.5), (1, 0.25), (3, 0.4), (2, 1.0)])
def test_shares_of_rows_add_up_over_the_steps(rows: int, share: float):
    plan = plan_of(5, share, rows)
    own = [plan.own_rows(step) for step in range(40)]
    assert all(0 <= count <= rows for count in own)
    assert sum(own) == int(40 * rows * share + 1e-9)
    assert [sum(own[5 * n : 5 * n + 5]) for n in range(8)] == [plan.rows_of_round(n) for n in range(8)]
    assert plan.first_own(7) == sum(own[5:7])
    drawn = list(range(40 * rows))
    others = [drawn[plan.others(step)] for step in range(40)]
    assert [len(found) + count for found, count in zip(others, own, strict=True)] == [rows] * 40
    assert sum(others, []) == drawn[: sum(map(len, others))]


def test_a_round_is_written_once_by_a_seed_of_its_own(tmp_path: Path):
    author = Author()
    rounds = Rounds(plan_of(3, 0.5), tmp_path, author)
    seen = [rounds.rows(step) for step in range(7)]
    assert len(author.seeds) == len(set(author.seeds)) == 3
    assert {len(rows) for rows in seen} == {2}
    # Each text of a round is trained on before any is again: three rows of two texts, six rows in all.
    first = [tuple(e.tokens.tolist()) for rows in seen[:3] for row in rows for e in row]
    assert len(first) == 12
    assert {first.count(text) for text in first} == {2}
    assert OnPolicy(every=3).rounds(7) == 3


@pytest.mark.parametrize("killed_at", [1, 3, 4])
def test_a_killed_training_goes_on_with_the_same_rows(tmp_path: Path, killed_at: int):
    plan = plan_of(3, 0.5)
    whole = Rounds(plan, tmp_path / "whole", Author())
    expected = [[tuple(e.tokens.tolist()) for row in whole.rows(step) for e in row] for step in range(9)]
    before = Rounds(plan, tmp_path / "killed", Author())
    for step in range(killed_at + 1):
        before.rows(step)
    author = Author()
    after = Rounds(plan, tmp_path / "killed", author)
    found = [[tuple(e.tokens.tolist()) for row in after.rows(step) for e in row] for step in range(killed_at - 1, 9)]
    assert found == expected[killed_at - 1 :]
    assert len(author.seeds) == 2 - killed_at // 3


def test_no_tokens_said_are_as_many_as_the_round_trains_on():
    assert OnPolicy(every=10, share=0.5).round_tokens(64) == 320
    assert OnPolicy(every=10, tokens=7).round_tokens(64) == 7
