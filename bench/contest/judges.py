"""The judges of the comparison, none of which any tool has seen, and what the float model makes of them.

Three are of the kinds of text that the tools may learn from: WikiText-2's test split, a book, chats. Four are of
domains that nothing is calibrated or trained on (domains.py). A judge is cut into windows of 512 tokens. Of a window
every token but the first is judged, of a chat those of the last answer.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from contest import domains
from edgedistill.data.example import Example, counted_from
from edgedistill.measure.judge import Judge, Reference, limit_documents, make_reference
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress

WINDOW = 512


@dataclass(frozen=True)
class Text:
    """A judge's text: its name in the record, where it is from, its file under judge/, and the tokens that are judged.

    A .json file holds chats: either their ids and the place of the prompt's last token, or messages.
    """

    name: str
    about: str
    file: str
    tokens: int


TEXTS = (
    Text("wiki.test.raw", "WikiText-2's raw test split, its beginning", "wiki.test.raw", 10_240),
    Text("held-out book", "The Adventures of Sherlock Holmes, its beginning", "book.txt", 5_120),
    Text(
        "held-out chats",
        "the float model's answers at temperature 0.8 to prompts of MT-bench and Self-Instruct",
        "chats.json",
        5_120,
    ),
    Text("code", "MBPP's test problems with their solutions", domains.CODE, 5_120),
    Text("word problems", "GSM8K's test questions with their answers", domains.WORD_PROBLEMS, 5_120),
    Text("other languages", "prompts of Arena-Hard v2.0 in other scripts", domains.LANGUAGES, 5_120),
    Text("dialogue", "GPT-4's reference answers to MT-bench's questions of two turns", domains.DIALOGUE, 5_120),
)


def make_judges(model: Path, folder: Path, most: int | None = None) -> list[Judge]:
    """The judges of a model's folder, from the files in `folder`, each cut to its tokens.

    Args:
        most: judged tokens of each at most; None for those of `TEXTS`.
    """
    tokenizer, judges = load_tokenizer(model), []
    for text in TEXTS:
        content = (folder / text.file).read_text(encoding="utf-8")
        if text.file.endswith(".json"):
            documents = [_chat(tokenizer, chat) for chat in json.loads(content)]
        else:
            documents = _windows(tokenizer, content)
        tokens = text.tokens if most is None else min(most, text.tokens)
        kept = limit_documents([document for document in documents if document.kept > 0], tokens)
        judges.append(Judge(text.name, text.about, kept))
    return judges


def _windows(tokenizer: PreTrainedTokenizerBase, text: str) -> list[Example]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [
        counted_from(torch.tensor(ids[at : at + WINDOW], dtype=torch.int32)) for at in range(0, len(ids) - 1, WINDOW)
    ]


def _chat(tokenizer: PreTrainedTokenizerBase, chat: Any) -> Example:
    """A chat of chats.py, or messages of which the last is judged; one whose answer begins too late keeps nothing."""
    if isinstance(chat, dict):
        return counted_from(torch.tensor(chat["ids"][:WINDOW], dtype=torch.int32), chat["first"])
    whole = _ids(tokenizer, chat, answered=True)
    asked = _ids(tokenizer, chat[:-1], answered=False)
    return counted_from(torch.tensor(whole[:WINDOW], dtype=torch.int32), len(asked) - 1)


def _ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], answered: bool) -> list[int]:
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=not answered, tokenize=False)
    return list(tokenizer(str(text), add_special_tokens=False)["input_ids"])


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
