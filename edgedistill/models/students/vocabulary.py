"""A student's vocabulary cut down to what its training text uses: fewer rows in the embedding and the output layer.

A small model is a fifth or more embedding (SmolLM2-135M: 28 of 135 million weights), and a narrow task reads a tenth of
its words. The rows that stay are the model's own, so on text of kept tokens it computes what it did.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgedistill.facts import EMBEDDING, HEAD
from edgedistill.models.identity import KEPT_TOKENS
from edgedistill.models.load import WEIGHTS
from edgedistill.models.trim import choose_tokens, trim_tokenizer


def trim_student(folder: Path, texts: Iterable[Tensor], size: int) -> None:
    """Cut a student's folder down to `size` tokens, and say which in `tokens.json`: the old ids in their new order.

    Args:
        folder: as `save_model` writes one; a trial that was killed within must begin with a new one.
        texts: token ids of the training text, each [n], in the folder's own ids.
        size: tokens that stay: those that the texts use first.
    Raises:
        InputError: as `choose_tokens`.
    """
    counts: Counter[int] = Counter()
    for text in texts:
        ids, times = text.unique(return_counts=True)
        counts.update(dict(zip(ids.tolist(), times.tolist(), strict=True)))
    kept = choose_tokens(folder, counts, size)
    tensors = load_file(folder / WEIGHTS)
    rows = torch.tensor(kept)
    for name in (EMBEDDING, HEAD):
        if name in tensors:
            tensors[name] = tensors[name][rows].contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    trim_tokenizer(folder, kept)
    (folder / KEPT_TOKENS).write_text(json.dumps({"kept": list(kept)}) + "\n", encoding="utf-8")


def kept_tokens(folder: Path) -> Tensor | None:
    """[V] int64: the teacher's id of each of a student's tokens; None where it has the teacher's own ids."""
    path = folder / KEPT_TOKENS
    if not path.is_file():
        return None
    return torch.tensor(json.loads(path.read_text(encoding="utf-8"))["kept"])
