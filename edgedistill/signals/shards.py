"""Teacher signals on disk: shards of examples with the teacher's view of each next token.

A shard is one safetensors file, written whole, readable alone, so memory doesn't grow with the data:

    tokens     int32 [S]       the examples' token ids, end to end
    starts     int64 [E + 1]   where each example begins in `tokens`; the last entry is S
    weight     float16 [S - E] how much each prediction counts, end to end; an example of n tokens has n - 1
    traces     uint8 [..]      the examples' trace ids, UTF-8, one a line
    ids        int32 [M, K]    `topk` signal: the k likeliest next tokens at each kept position
    log_probs  float16 [M, K]  and their log-probabilities over the full vocabulary at temperature 1
    hidden     bfloat16 [M, H] `hidden` signal: the teacher's last hidden state after the final norm; in validation
                               text float32
    state-L    bfloat16 [M, D] the teacher's hidden state after L blocks; see losses/blocks.py
    every/NAME bfloat16 [S, W] queries, keys and values of a block of the teacher, at each token

Kept positions are those whose weight is above 0, end to end over examples.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgedistill.data.example import Example
from edgedistill.errors import RunError
from edgedistill.store.whole import whole

PATTERN = "signals-*.safetensors"
EVERY = "every/"  # what signals begin with that have a row for each token
# What the folders of a split's sources begin with: what the teacher wrote, answered to questions of a task's kind that
# it made up, wrote freely, and read.
WRITTEN, NEW, FREE, PROSE = SOURCES = ("", "new-", "free-", "prose-")
SOURCE_NAMES = {WRITTEN: "written", NEW: "new", FREE: "free", PROSE: "prose"}


def shard_path(folder: Path, index: int) -> Path:
    """Where shard number `index` lies."""
    return folder / f"signals-{index:05d}.safetensors"


def save_shard(path: Path, examples: Sequence[Example]) -> None:
    """Write examples as one shard; the name appears only when the file is whole.

    Raises:
        ValueError: a signal's rows aren't the kept positions, or aren't all tokens where they must be.
    """
    for number, example in enumerate(examples):
        for name, rows in example.every.items():
            if len(rows) != len(example.tokens):
                raise ValueError(
                    f"example {number}: signal '{name}' has {len(rows)} rows for {len(example.tokens)} tokens"
                )
        for name, rows in example.signal.items():
            if len(rows) != example.kept:
                raise ValueError(
                    f"example {number}: signal '{name}' has {len(rows)} rows for {example.kept} kept positions"
                )
    lengths = torch.tensor([0, *(len(example.tokens) for example in examples)], dtype=torch.int64)
    tensors = {
        "tokens": _joined([example.tokens for example in examples], torch.int32),
        "starts": lengths.cumsum(0),
        "weight": _joined([example.weight for example in examples], torch.float16),
        "traces": _text("\n".join(example.trace_id for example in examples)),
    }
    for name in examples[0].signal if examples else ():
        tensors[name] = torch.cat([example.signal[name] for example in examples]).contiguous()
    for name in examples[0].every if examples else ():
        tensors[f"{EVERY}{name}"] = torch.cat([example.every[name] for example in examples]).contiguous()
    with whole(path) as temporary:
        save_file(tensors, temporary)


def load_shard(path: Path) -> list[Example]:
    """Read a shard.

    Raises:
        RunError: the file isn't a whole shard.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: not a whole signal shard ({error}); remove its stage folder and run again") from error
    tokens, starts, weight, traces = (tensors.pop(name) for name in ("tokens", "starts", "weight", "traces"))
    bounds = starts.tolist()
    trace_ids = bytes(traces.tolist()).decode().split("\n")
    examples = []
    row = 0
    for index in range(len(bounds) - 1):
        start, stop = bounds[index], bounds[index + 1]
        # Each example before this one has one weight less than it has tokens.
        own = weight[start - index : stop - index - 1]
        kept = int((own > 0).sum())
        signal = {name: rows[row : row + kept] for name, rows in tensors.items() if not name.startswith(EVERY)}
        every = {name.removeprefix(EVERY): rows[start:stop] for name, rows in tensors.items() if name.startswith(EVERY)}
        examples.append(Example(tokens[start:stop], own, signal, trace_ids[index], every))
        row += kept
    return examples


def iter_shards(folder: Path) -> Iterator[Example]:
    """All examples of a folder's shards, in order, one shard in memory at a time."""
    for path in sorted(folder.glob(PATTERN)):
        yield from load_shard(path)


def load_sources(folder: Path, split: str) -> dict[str, list[Example]]:
    """The examples of a split by the names of their sources, in the order of SOURCES; sources without any are left
    out.
    """
    sources = {SOURCE_NAMES[source]: list(iter_shards(folder / f"{source}{split}")) for source in SOURCES}
    return {name: examples for name, examples in sources.items() if examples}


def count_tokens(folder: Path) -> int:
    """All tokens of a folder's shards, by their headers alone."""
    total = 0
    for path in sorted(folder.glob(PATTERN)):
        with safe_open(path, framework="pt") as file:
            total += file.get_slice("tokens").get_shape()[0]
    return total


def count_kept(folder: Path) -> int:
    """All kept positions of a folder's shards, by their weights alone."""
    total = 0
    for path in sorted(folder.glob(PATTERN)):
        with safe_open(path, framework="pt") as file:
            total += int((file.get_tensor("weight") > 0).sum())
    return total


def iter_split(taught: Path, split: str) -> Iterator[Example]:
    """All examples of a split of the teach stage's folder, in the order of SOURCES, one shard in memory at a time."""
    for source in SOURCES:
        yield from iter_shards(taught / f"{source}{split}")


def load_split(taught: Path, split: str) -> list[Example]:
    """All examples of a split of the teach stage's folder, in the order of SOURCES."""
    return [example for source in SOURCES for example in iter_shards(taught / f"{source}{split}")]


def _joined(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The parts end to end; an empty tensor where there are none."""
    return torch.cat([torch.zeros(0, dtype=dtype), *(part.to(dtype) for part in parts)])


def _text(text: str) -> Tensor:
    """A text's bytes in UTF-8."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
