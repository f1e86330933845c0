"""A teacher's blocks beside the training text that they belong to: what is stored of them, and both put together."""

from collections.abc import Sequence
from pathlib import Path

from edgedistill.data.example import Example
from edgedistill.errors import RunError
from edgedistill.losses.blocks import BlockNeeds
from edgedistill.signals.shards import iter_shards
from edgedistill.signals.sources import SIDES, side_name, state_name


def names_of(needs: BlockNeeds) -> tuple[list[str], list[str]]:
    """The signals of kept positions, and those of every token, that hold what is needed."""
    states = [state_name(layer) for layer in sorted(needs.states)]
    return states, [side_name(side, block) for block in sorted(needs.attention) for side in SIDES]


def join_blocks(examples: Sequence[Example], folder: Path, needs: BlockNeeds) -> list[Example]:
    """The examples with the teacher's blocks that a folder of shards holds of them, cut as these are.

    Raises:
        RunError: the folder has other texts.
    """
    states, sides = names_of(needs)
    joined: list[Example] = []
    stored = list(iter_shards(folder))
    if len(stored) != len(examples):
        raise RunError(
            f"{folder}: holds {len(stored)} texts for {len(examples)}; remove the stage folder and run again"
        )
    for example, of_blocks in zip(examples, stored, strict=True):
        short = example.cut(len(of_blocks.tokens))
        if not short.tokens.equal(of_blocks.tokens):
            raise RunError(
                f"{folder}: holds another text than {example.trace_id}; remove the stage folder and run again"
            )
        signal = short.signal | {name: of_blocks.signal[name] for name in states}
        every = {name: of_blocks.every[name] for name in sides}
        joined.append(Example(short.tokens, short.weight, signal, short.trace_id, every))
    return joined
