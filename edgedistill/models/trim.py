"""A tokenizer without the tokens that a task's text never uses: which go, and what is left. No torch.

Byte pair encoding joins two neighbours by the first merge of the list that applies. Where the list loses merges that a
text never uses, each step of that text still finds the same first merge, so its ids stay the same but for their
numbers. So whatever is kept is kept with all that its joins go through: the pieces that its characters become one after
the other. Other text is spelled with shorter tokens: all bytes stay.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.models.sentencepiece import BYTE_TOKENS
from edgedistill.models.tokens import (
    CONTROL,
    ENDS_BY_TEXT,
    SPACE,
    SPECIAL_IDS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    read_json,
)
from edgedistill.models.vocabulary import read_vocabulary

LEAST_SIZE, BLOCK = 256, 32  # what a recipe may ask for: the least, and what it is a multiple of


@dataclass
class Joins:
    """How a tokenizer's merges make its tokens."""

    merges: Sequence[tuple[str, str]]
    _ranks: dict[tuple[str, str], int] = field(init=False)

    def __post_init__(self) -> None:
        self._ranks = {}
        for rank, pair in enumerate(self.merges):
            self._ranks.setdefault(pair, rank)

    def pieces(self, token: str) -> set[str]:
        """All that the characters of a text become on their way to what it is in the end, these included."""
        parts = list(token)
        seen = {*parts, token}
        while len(parts) > 1:
            ranked = [
                (rank, place)
                for place in range(len(parts) - 1)
                if (rank := self._ranks.get((parts[place], parts[place + 1]))) is not None
            ]
            if not ranked:
                break
            _, place = min(ranked)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
            seen.add(parts[place])
        return seen


def least_size(vocabulary: Vocabulary) -> int:
    """Tokens that stay whatever a text uses: bytes, special tokens, those of the chat template."""
    return len(_always(vocabulary))


def check_size(where: str, model: Path, size: int) -> None:
    """Raise InputError where a model's tokenizer can't be cut down to `size` tokens; `where` begins the message."""
    vocabulary = read_vocabulary(model)
    least, most = least_size(vocabulary), sum(kind != UNUSED for kind in vocabulary.types)
    if least <= size < most:
        return
    lowest, highest = -(-max(least, LEAST_SIZE) // BLOCK) * BLOCK, (most - 1) // BLOCK * BLOCK
    advice = f"Choose a multiple of {BLOCK} from {lowest} to {highest}."
    if lowest > highest:
        advice = "That is too few to take some away; leave vocabulary out."
    raise InputError(
        f"{where}: vocabulary is {size}; the tokenizer of {model} has {most} tokens, {least} of which always stay. "
        f"{advice}"
    )


def choose_tokens(folder: Path, counts: Mapping[int, int], size: int) -> tuple[int, ...]:
    """The ids of the tokens to keep, ascending, `size` of them.

    First those that always stay; then those that a text uses, the commonest first, each with what its joins go through;
    then those of the lowest ids, which merges made first because most text has them.

    Args:
        folder: a Hugging Face folder's; its tokenizer.json is read.
        counts: by id, how often a text uses it.
        size: how many are kept.
    Raises:
        InputError: it is fewer than must stay, or more than there are.
    """
    vocabulary, data = read_vocabulary(folder), read_json(folder / "tokenizer.json")
    ids = {token: index for index, token in enumerate(vocabulary.tokens) if vocabulary.types[index] != UNUSED}
    kept = _always(vocabulary)
    if not len(kept) <= size <= len(ids):
        raise InputError(
            f"{folder}: its tokenizer has {len(ids)} tokens, {len(kept)} of which always stay; a vocabulary of {size} "
            f"can't be made of it. Choose from {len(kept)} to {len(ids)}."
        )
    joins = Joins(_merges(data))
    used = sorted((index for index, count in counts.items() if count), key=lambda index: (-counts[index], index))
    for index in (*used, *sorted(ids.values())):
        if len(kept) == size:
            break
        if index not in kept and vocabulary.types[index] != UNUSED:
            new = {ids[piece] for piece in joins.pieces(vocabulary.tokens[index]) if piece in ids} | {index}
            if len(kept | new) <= size:
                kept |= new
    return tuple(sorted(kept))


def trim_tokenizer(folder: Path, kept: Sequence[int]) -> None:
    """Rewrite a folder's tokenizer.json and the ids in its configs; token `kept[i]` becomes token i.

    Args:
        folder: as `save_model` writes one.
        kept: as `choose_tokens` gives them.
    Raises:
        InputError: what is left isn't a tokenizer that llama.cpp and transformers read alike.
    """
    new_ids = {old: new for new, old in enumerate(kept)}
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(trimmed(read_json(path), new_ids), ensure_ascii=False), encoding="utf-8")
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            config = _renumbered(read_json(folder / name), new_ids)
            if name == "config.json":
                config["vocab_size"] = len(kept)
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            (folder / name).write_text(text, encoding="utf-8")
    read_vocabulary(folder)


def trimmed(data: Mapping[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    """A tokenizer.json with the tokens of `new_ids` (old id -> new id) alone, and the merges between these."""
    model = dict(data["model"])
    model["vocab"] = {token: new_ids[index] for token, index in model["vocab"].items() if index in new_ids}
    added = [
        {**token, "id": new_ids[int(token["id"])]}
        for token in data.get("added_tokens") or []
        if int(token["id"]) in new_ids
    ]
    texts = {*model["vocab"], *(str(token["content"]) for token in added)}
    model["merges"] = [
        merge
        for merge, (left, right) in zip(model["merges"], _merges(data), strict=True)
        if left in texts and right in texts and left + right in texts
    ]
    return {
        **data,
        "added_tokens": added,
        "model": model,
        "post_processor": _renumbered_processor(data.get("post_processor"), new_ids),
    }


def _merges(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pairs of a tokenizer.json, whichever way it writes them."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in data["model"]["merges"])
    return [(str(left), str(right)) for left, right in pairs]


def _always(vocabulary: Vocabulary) -> set[int]:
    """Ids of the tokens that stay: bytes, those with a meaning, those that the chat templates name."""
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    from tokenizers.pre_tokenizers import ByteLevel

    texts: set[str] = set(BYTE_TOKENS if vocabulary.model == "llama" else ByteLevel.alphabet())
    templates = [vocabulary.chat_template or "", *(text for _, text in vocabulary.named_templates)]
    for content, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        # Tokens that are found before any split. Runs of one character are found in every length or in none, so that
        # llama.cpp finds them alike. A text ends at any of ENDS_BY_TEXT.
        if (
            kind in (CONTROL, USER_DEFINED, UNKNOWN)
            and (
                len(set(content)) == 1 or content in ENDS_BY_TEXT or any(content in template for template in templates)
            )
            or vocabulary.model == "llama"
            and set(content) == {SPACE}
        ):
            texts.add(content)
    kept = {ids[text] for text in texts if text in ids}
    for name in (*SPECIAL_IDS, "eot", "eom"):
        if (index := getattr(vocabulary, name)) is not None:
            kept.add(index)
    return kept


def _renumbered(config: Mapping[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    """A config with the new ids of its special tokens; one that is gone is null."""

    def renumber(value: Any) -> Any:
        if isinstance(value, list):
            return [new_ids[index] for index in value if index in new_ids]
        return new_ids.get(value)

    return {
        key: renumber(value) if key.endswith("_token_id") and value is not None else value
        for key, value in config.items()
    }


def _renumbered_processor(processor: Any, new_ids: Mapping[int, int]) -> Any:
    if isinstance(processor, list):
        return [_renumbered_processor(part, new_ids) for part in processor]
    if not isinstance(processor, dict):
        return processor
    changed = {key: _renumbered_processor(value, new_ids) for key, value in processor.items()}
    if processor.get("type") == "TemplateProcessing":
        tokens = processor.get("special_tokens") or {}
        changed["special_tokens"] = {
            name: {**token, "ids": [new_ids[index] for index in token["ids"]]} for name, token in tokens.items()
        }
    return changed
