"""On-policy rounds: rows of text that the model in training wrote itself, fresh after so many steps.

A round's text is a function of the weights, of a seed and of the round's number, and is kept beside the checkpoints
until the training ends. A killed run comes by the same weights again, so it finds the round's text or writes the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedistill.config.on_policy import OnPolicy
from edgedistill.data.example import Example
from edgedistill.data.packing import counting, pack_rows, schedule_rows
from edgedistill.data.seeds import derived_seed
from edgedistill.signals.shards import load_shard, save_shard, shard_path

FOLDER = "rounds"


@dataclass(frozen=True)
class RoundPlan:
    """Which rows of which step are the model's own.

    Attributes:
        settings: the recipe's.
        rows_per_step: of a step, own and others.
        seq_len: tokens of a row.
        seed: of the training.
        place: where in the recipe `seq_len` is set, for messages.
    """

    settings: OnPolicy
    rows_per_step: int
    seq_len: int
    seed: int
    place: str

    def own_rows(self, step: int) -> int:
        """Rows of a step that are its own: shares of a row add up over the steps."""
        return self._until(step + 1) - self._until(step)

    def others(self, step: int) -> slice:
        """Which of the rows that were drawn for the whole training, in order, are the step's others: the next ones, so
        that what its own rows displace are the last of all and not the same ones of every step.
        """
        return slice(
            step * self.rows_per_step - self._until(step), (step + 1) * self.rows_per_step - self._until(step + 1)
        )

    def first_own(self, step: int) -> int:
        """How many of its own rows the steps before it took of the step's round."""
        return self._until(step) - self._until(step - step % self.settings.every)

    def rows_of_round(self, number: int) -> int:
        """Own rows of all steps of a round."""
        first = number * self.settings.every
        return self._until(first + self.settings.every) - self._until(first)

    def _until(self, step: int) -> int:
        return int(step * self.rows_per_step * self.settings.share + 1e-9)

    def seed_of(self, number: int) -> int:
        """What a round draws by."""
        return derived_seed(self.seed, f"on-policy round {number}")


class Rounds:
    """The rounds of one training."""

    def __init__(self, plan: RoundPlan, work: Path, write: Callable[[int], Sequence[Example]]) -> None:
        """Keep rounds below `work`, the training's folder of checkpoints.

        Args:
            write: a seed -> text by the model as it is, with its teacher's signals.
        """
        self.plan, self.folder, self.write = plan, work / FOLDER, write
        self._number = -1
        self._rows: list[list[Example]] = []

    def rows(self, step: int) -> list[list[Example]]:
        """The step's own rows; those of a round's first step are written by the model as it is now."""
        count = self.plan.own_rows(step)
        if not count:
            return []
        self._open(step // self.plan.settings.every)
        first = self.plan.first_own(step)
        return self._rows[first : first + count]

    def _open(self, number: int) -> None:
        if number == self._number:
            return
        seed, path = self.plan.seed_of(number), shard_path(self.folder, number)
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            save_shard(path, self.write(seed))
        text = counting(load_shard(path), self.plan.seq_len, self.plan.place)
        rows = pack_rows([len(example.tokens) for example in text], self.plan.seq_len)
        order = schedule_rows(len(rows), 1, self.plan.rows_of_round(number), seed)
        self._rows = [[text[index] for index in rows[row]] for (row,) in order]
        self._number = number
