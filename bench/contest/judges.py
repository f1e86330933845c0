"""The judges of the comparison: WikiText-2's test split, a book and chats, none of which any tool has seen; and the
float model's view.

A judge is cut into windows of 512 tokens. A window's every token but its first is judged, of a chat those of the
answer.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from edgedistill.data.example import Example, counted_from
from edgedistill.measure.judge import Judge, Reference, limit_documents, make_reference
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress

WINDOW = 512
TOKENS = {"wiki.test.raw": 20_480, "held-out book": 5_120, "held-out chats": 5_120}
ABOUT = {
    "wiki.test.raw": "WikiText-2's raw test split, its beginning",
    "held-out book": "The Adventures of Sherlock Holmes, its beginning",
    "held-out chats": "the float model's answers at temperature 0.8 to prompts of MT-bench and Self-Instruct",
}


def make_judges(model: Path, wiki: str, book: str, chats: list[dict[str, Any]]) -> list[Judge]:
    """The three judges of a model's folder, each cut to its tokens of `TOKENS`."""
    tokenizer = load_tokenizer(model)

    def windows(text: str) -> list[Example]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [
            counted_from(torch.tensor(ids[i : i + WINDOW], dtype=torch.int32)) for i in range(0, len(ids) - 1, WINDOW)
        ]

    answered = [counted_from(torch.tensor(chat["ids"][:WINDOW], dtype=torch.int32), chat["first"]) for chat in chats]
    found = zip(TOKENS, (windows(wiki), windows(book), [d for d in answered if d.kept > 0]), strict=True)
    return [Judge(name, ABOUT[name], limit_documents(documents, TOKENS[name])) for name, documents in found]


def judges_key(judges: list[Judge], weights: str) -> str:
    """A hash of every judged token and of the float model's weights: rows with another one aren't comparable."""
    digest = hashlib.sha256(weights.encode())
    for judge in judges:
        for document in judge.documents:
            digest.update(f"{judge.name} {document.positions.tolist()} {document.tokens.tolist()}".encode())
    return digest.hexdigest()


def describe(judges: list[Judge]) -> list[dict[str, Any]]:
    """Name, source, judged tokens and SHA-256 of the token ids of each judge."""
    return [
        {
            "name": judge.name,
            "source": judge.source,
            "tokens": judge.tokens,
            "documents": len(judge.documents),
            "window": WINDOW,
            "ids_sha256": hashlib.sha256(json.dumps([d.tokens.tolist() for d in judge.documents]).encode()).hexdigest(),
        }
        for judge in judges
    ]


def reference_of(model: Path, judges: list[Judge], key: str, work: Path, progress: Progress) -> Reference:
    """What the float model expects at every judged token, float32; kept under `work` by the judges' hash."""
    return make_reference(model, judges, work / f"reference-{key[:12]}.safetensors", "float model", progress)
