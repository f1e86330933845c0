"""Teacher signals on disk: shards of documents with what the teacher thinks of each next token.

A shard is one safetensors file, written whole, readable alone, so memory doesn't grow with the data:

    tokens     int32 [S]       the documents' token ids, end to end
    starts     int64 [D + 1]   where each document begins in `tokens`; the last entry is S
    first      int64 [D]       the first position of each document whose next token counts
    ids        int32 [M, K]    `topk` signal: the k likeliest next tokens at each kept position
    log_probs  float16 [M, K]  and their log-probabilities over the full vocabulary at temperature 1
    hidden     bfloat16 [M, H] `hidden` signal: the teacher's last hidden state after the final norm

Kept positions of a document of n tokens are first .. n − 2 (the last token has no next), end to end over documents.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgedistill.errors import RunError

PATTERN = "signals-*.safetensors"
# What the folders of a split's sources begin with: what the teacher wrote, wrote freely, and read.
WRITTEN, FREE, PROSE = SOURCES = ("", "free-", "prose-")


@dataclass(frozen=True)
class Document:
    """One text with the teacher's signal at its kept positions.

    Attributes:
        tokens: [n] int32 ids, n >= 2.
        first: the first position whose next token counts.
        signal: by name, tensors whose rows are the n − 1 − first kept positions.
    """

    tokens: Tensor
    first: int
    signal: dict[str, Tensor]

    @property
    def kept(self) -> int:
        """Number of positions that a loss sees."""
        return len(self.tokens) - 1 - self.first


def shard_path(folder: Path, index: int) -> Path:
    """Where shard number `index` lies."""
    return folder / f"signals-{index:05d}.safetensors"


def save_shard(path: Path, documents: Sequence[Document]) -> None:
    """Write documents as one shard; the name appears only when the file is whole.

    Raises:
        ValueError: a signal's rows aren't the kept positions.
    """
    for number, document in enumerate(documents):
        for name, rows in document.signal.items():
            if len(rows) != document.kept:
                raise ValueError(
                    f"document {number}: signal '{name}' has {len(rows)} rows for {document.kept} kept positions"
                )
    lengths = torch.tensor([0, *(len(d.tokens) for d in documents)], dtype=torch.int64)
    tensors = {
        "tokens": torch.cat([d.tokens.to(torch.int32) for d in documents])
        if documents
        else torch.zeros(0, dtype=torch.int32),
        "starts": lengths.cumsum(0),
        "first": torch.tensor([d.first for d in documents], dtype=torch.int64),
    }
    for name in documents[0].signal if documents else ():
        tensors[name] = torch.cat([d.signal[name] for d in documents]).contiguous()
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)


def load_shard(path: Path) -> list[Document]:
    """Read a shard.

    Raises:
        RunError: the file isn't a whole shard.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: not a whole signal shard ({error}); remove its stage folder and run again") from error
    tokens, starts, first = (tensors.pop(name) for name in ("tokens", "starts", "first"))
    documents = []
    row = 0
    for index in range(len(first)):
        ids = tokens[int(starts[index]) : int(starts[index + 1])]
        kept = len(ids) - 1 - int(first[index])
        documents.append(
            Document(ids, int(first[index]), {name: rows[row : row + kept] for name, rows in tensors.items()})
        )
        row += kept
    return documents


def iter_shards(folder: Path) -> Iterator[Document]:
    """All documents of a folder's shards, in order, one shard in memory at a time."""
    for path in sorted(folder.glob(PATTERN)):
        yield from load_shard(path)


def load_split(taught: Path, split: str) -> list[Document]:
    """All documents of a split of the teach stage's folder, in the order of SOURCES."""
    return [document for source in SOURCES for document in iter_shards(taught / f"{source}{split}")]
