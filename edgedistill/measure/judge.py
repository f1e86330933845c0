"""Judging texts: held-out documents, and what the teacher and the float student predict on them.

A reference is a model's last hidden states on the kept positions and its output matrix, both float32: the exact
distribution at every position for 4·D bytes a token. It is computed once, and every packed file is compared with it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgedistill.data.example import Example, counted_from
from edgedistill.data.prose import Passage, Stretch
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.signals.shards import iter_shards, save_shard, shard_path
from edgedistill.store.whole import whole, write_json
from edgedistill.train.layered import LayeredModel

JUDGES, REFERENCE = "judges.json", "reference.safetensors"
WINDOW = 256  # tokens of one document of prose
HALF = "\ufffd"  # what a part of a character decodes to


@dataclass(frozen=True)
class Judge:
    """A text to judge on: documents that no training saw.

    Attributes:
        name: as the report shows it.
        source: where it comes from.
        documents: their tokens and weights; signals aren't used.
        per: the tokens that a perplexity on it is given for each of, where these aren't its own: the same text's, as
            they weigh, in the tokens of the model that others are compared with.
    """

    name: str
    source: str
    documents: tuple[Example, ...]
    per: float | None = None

    @property
    def tokens(self) -> int:
        """Judged positions."""
        return sum(document.kept for document in self.documents)


class Reference:
    """A float model's view: hidden states [N, D] of all judged positions of all judges, in order, and its output matrix
    [V, D].

    Values that depend only on the float model are cached at first use, for each number of rows that is compared.
    """

    def __init__(self, hidden: Tensor, head: Tensor) -> None:
        self.hidden, self.head = hidden, head
        self._cached: dict[int, _Cached] = {}

    def view(self, start: int, stop: int, rows: int | None = None) -> "ReferenceView":
        """What the model predicts at judged positions start .. stop.

        Args:
            rows: of the output matrix; the distribution sums up to 1 over the first of these. None: all of them. A file
                with other padding rows than the model (Qwen2.5: 151,936 and 152,064) is compared on those of both.
        """
        rows = len(self.head) if rows is None else min(rows, len(self.head))
        if rows not in self._cached:
            self._cached[rows] = _Cached.of(len(self.hidden))
        cached = self._cached[rows]
        logits = self.hidden[start:stop] @ self.head[:rows].T
        p = torch.softmax(logits, -1)
        if not bool(cached.seen[start:stop].all()):
            # Summed over the same p that every file's log q is: what p lacks to a sum of 1 cancels in their difference.
            cached.negative_entropy[start:stop] = torch.log_softmax(logits, -1).mul_(p).sum(-1)
            cached.likeliest[start:stop] = logits.argmax(-1)
            cached.seen[start:stop] = True
        return ReferenceView(p, cached.negative_entropy[start:stop], cached.likeliest[start:stop])


@dataclass(frozen=True)
class _Cached:
    """Values of N positions: which were seen [N] bool, Σ p log p [N] and the likeliest tokens [N] of those."""

    seen: Tensor
    negative_entropy: Tensor
    likeliest: Tensor

    @classmethod
    def of(cls, positions: int) -> "_Cached":
        """Room for so many positions, none seen yet."""
        return cls(
            torch.zeros(positions, dtype=torch.bool),
            torch.empty(positions),
            torch.empty(positions, dtype=torch.long),
        )


@dataclass(frozen=True)
class ReferenceView:
    """A reference at n positions: p [n, V] float32, Σ p log p [n] in nats, and the likeliest tokens [n]."""

    p: Tensor
    negative_entropy: Tensor
    likeliest: Tensor


def limit_documents(documents: Sequence[Example], tokens: int) -> tuple[Example, ...]:
    """The first documents, until they hold `tokens` judged positions; the last one is cut."""
    chosen: list[Example] = []
    left = tokens
    for document in documents:
        if left <= 0:
            break
        if document.kept:
            last = int(document.positions[min(left, document.kept) - 1])
            chosen.append(document.cut(last + 2).with_signal())
            left -= chosen[-1].kept
    return tuple(chosen)


def whole_documents(documents: Sequence[Example], tokens: int) -> tuple[Example, ...]:
    """The first documents that hold at least `tokens` judged positions together; none is cut."""
    chosen: list[Example] = []
    held = 0
    for document in documents:
        if held >= tokens:
            break
        chosen.append(document.with_signal())
        held += document.kept
    return tuple(chosen)


def readable(documents: Sequence[Example], context: int) -> tuple[Example, ...]:
    """Documents cut to what a model reads at most."""
    return tuple(document.cut(context) for document in documents if document.cut(context).kept)


def whole_texts(tokenizer_of: Path, documents: Sequence[Example]) -> tuple[Example, ...]:
    """Pieces of prose without what a cut left of a character at their ends, so that another tokenizer can read the
    same text.
    """
    tokenizer = load_tokenizer(tokenizer_of)
    decoded = [tokenizer.decode(each.tokens.tolist(), skip_special_tokens=True) for each in documents]
    texts = [str(text).strip(HALF) for text in decoded]
    return tuple(counted_from(tokenizer(text, return_tensors="pt")["input_ids"][0].int()) for text in texts if text)


def prose_documents(tokenizer_of: Path, texts: Sequence[Passage], tokens: int) -> tuple[Example, ...]:
    """The beginnings of texts as documents of WINDOW tokens, `tokens` judged positions in all, the same number of each
    text.
    """
    tokenizer = load_tokenizer(tokenizer_of)
    share = -(-tokens // len(texts))
    documents: list[Example] = []
    for text in texts:
        # A piece's first token isn't judged, so more tokens are read than count.
        pieces = Stretch(text, 2 * share + WINDOW).pieces(tokenizer, WINDOW)
        documents += limit_documents([counted_from(torch.tensor(ids, dtype=torch.int32)) for ids in pieces], share)
    return tuple(documents)


def save_judges(judges: Sequence[Judge], folder: Path) -> None:
    """Write judges to a folder: the documents of each, and `judges.json`."""
    for number, judge in enumerate(judges):
        (folder / str(number)).mkdir(exist_ok=True)
        save_shard(shard_path(folder / str(number), 0), judge.documents)
    write_json(folder / JUDGES, [_entry(judge) for judge in judges])


def _entry(judge: Judge) -> dict[str, str | float]:
    """What judges.json says of a judge."""
    entry: dict[str, str | float] = {"name": judge.name, "source": judge.source}
    return entry if judge.per is None else entry | {"per": judge.per}


def load_judges(folder: Path) -> list[Judge]:
    """What `save_judges` wrote."""
    entries = json.loads((folder / JUDGES).read_text(encoding="utf-8"))
    return [
        Judge(entry["name"], entry["source"], tuple(iter_shards(folder / str(number))), entry.get("per"))
        for number, entry in enumerate(entries)
    ]


def load_reference(path: Path) -> Reference:
    """What `make_reference` wrote."""
    tensors = load_file(path)
    return Reference(tensors["hidden"], tensors["head"])


@torch.no_grad()
def make_reference(
    model_path: Path,
    judges: Sequence[Judge],
    out: Path,
    what: str,
    progress: Progress,
    kept: Tensor | None = None,
    device: str = "cpu",
) -> Reference:
    """Run a float model over the judges in float32 and write its reference to `out`; read it from there if it exists.

    Args:
        what: the model's name, for the progress.
        kept: [V] the model's ids of the tokens that it is compared on, where those that are compared with it have no
            others; its distribution is then that over these.
        device: what computes.
    """
    if not out.is_file():
        model = LayeredModel(model_path, device=device)
        documents = [document for judge in judges for document in judge.documents]
        layers = len(model.layers)
        progress.start(f"reference: {what}", layers, "layers")
        states = model.last_states(
            [document.tokens.long().unsqueeze(0).to(device) for document in documents],
            [{} for _ in documents],
            after_layer=lambda _layer: progress.advance(1),
        )
        progress.finish()
        for number, document in enumerate(documents):
            states[number] = states[number][0].cpu()[document.positions].float() / model.scale
        head = model.head().cpu()
        if kept is not None:
            head = head[kept]
        with whole(out) as temporary:
            save_file({"hidden": torch.cat(states), "head": head.contiguous()}, temporary)
        del model, states, head
    return load_reference(out)
