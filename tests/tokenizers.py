"""Tokenizers that the tests train themselves, as tokenizer.json: byte-level BPE of every split, and sentencepiece's
BPE.
"""

import json
import random
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

from edgedistill.models.pretokenizers import IGNORE_MERGES, PRE_TOKENIZERS
from edgedistill.models.tokenizer import TEST_TEXTS
from edgedistill.models.tokens import SPACE, USER_DEFINED, Vocabulary
from tests.tiny import CHAT_TEMPLATE, CORPUS

# What a split decides on: letters of several scripts, marks, digits of several kinds, punctuation, spaces of several
# kinds.
PIECES = [*"aZ'sStTé\u0301ßжЖ中文한๓٣½²Ⅳ0123456789.,!?-_#$(){}\"<>|\\/@~`^+= \t\n\r\u00a0\u3000\u200d🚀🇫▁\x00\x85\x1c"]
PIECES += ["'ll", "'RE", "  ", "\r\n", "\n\n", " '", "ab", " the", " and", "        "]
PIECES += ["<s>", "</s>", "<|im_end|>", "<|end|>", "<tool>", "[INST]"]
# The first ids of every tokenizer here; the last three aren't special.
ADDED = [
    "<unk>",
    "<s>",
    "</s>",
    "<|endoftext|>",
    "<|im_end|>",
    "<|user|>",
    "<|end|>",
    "<tool>",
    "[INST]",
    "<|assistant|>",
]
SPECIAL = set(ADDED[:7])
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# What the tokenizers learn from: nothing that spells a token which llama.cpp would take for a control token.
TRAINING = [*CORPUS, *[text for text in TEST_TEXTS if "<|" not in text and "<s>" not in text] * 3]


def random_texts(count: int, seed: int) -> list[str]:
    """Random strings of the pieces."""
    chance = random.Random(seed)
    return ["".join(chance.choices(PIECES, k=chance.randint(1, 24))) for _ in range(count)]


def entry(index: int, content: str, **flags: bool) -> dict:
    """One of tokenizer.json's added tokens."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": content in SPECIAL}
    return {"id": index, "content": content, **plain, **flags}


def processor(template: list[str] | None) -> dict | None:
    """A post-processor that puts special tokens around a text: ["<s>", "$A"]."""
    if template is None:
        return None

    def pieces(sequence: str) -> list[dict]:
        return [
            {"Sequence": {"id": sequence, "type_id": 0}} if p == "$A" else {"SpecialToken": {"id": p, "type_id": 0}}
            for p in template
        ]

    special = {p: {"id": p, "ids": [ADDED.index(p)], "tokens": [p]} for p in template if p != "$A"}
    return {
        "type": "TemplateProcessing",
        "single": pieces("A"),
        "pair": [*pieces("A"), *pieces("B")],
        "special_tokens": special,
    }


def byte_level(
    pre: str, normalizer: dict | None = None, template: list[str] | None = None, without: str | None = None
) -> dict:
    """A byte-level BPE tokenizer that splits as `pre`.

    Args:
        without: a token that stands in the vocabulary but is no added token, as "</s>" in Qwen's.
    """
    data = json.loads(_trained_bytes(pre))
    data["added_tokens"] = [entry(index, content) for index, content in enumerate(ADDED) if content != without]
    return data | {"normalizer": normalizer, "post_processor": processor(template)}


@cache
def _trained_bytes(pre: str) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    shell = json.loads(Tokenizer(models.BPE(ignore_merges=pre in IGNORE_MERGES)).to_str())
    tokenizer = Tokenizer.from_str(json.dumps(shell | {"pre_tokenizer": PRE_TOKENIZERS[pre]}))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=ADDED, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*TRAINING, *random_texts(200, seed=1)], trainer)
    return json.dumps(json.loads(tokenizer.to_str()) | {"decoder": shell_decoder()})


def shell_decoder() -> dict:
    """The decoder of a byte-level tokenizer."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def sentencepiece(
    prefix: str,
    runs_added: bool = False,
    rstrip: bool = False,
    template: list[str] | None = None,
    longest_run: int = 16,
) -> dict:
    """A tokenizer.json as transformers makes it of a sentencepiece BPE model: every pair of tokens that makes a token
    is a merge.

    Args:
        prefix: "each" (Llama 2's normalizer), "none" (Gemma's), "first" or "never" (Metaspace's schemes).
        runs_added: runs of spaces, newlines and tabs are added tokens, whose merges come first and mixed, as in Gemma.
        rstrip: added tokens take the spaces behind them, as in Phi-3.
    """
    characters = ("▁", "\n", "\t") if runs_added else ("▁",)
    runs = [character * length for character in characters for length in range(2, longest_run + 1)]
    vocab = {token: index for index, token in enumerate([*ADDED, *BYTES, *runs])}
    for token in _trained_characters():
        if "\0" not in token:  # llama.cpp can't hold one
            vocab.setdefault(token, len(vocab))
    merges = []
    for token, index in vocab.items():
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        first = runs_added and token in runs
        for left, right in pairs:
            if left in vocab and right in vocab:
                merges.append((0 if first else index, -len(left) if first else len(left), left, right))
    added = [
        entry(vocab[content], content, rstrip=rstrip and content not in ("<unk>", "<s>", "<|endoftext|>"))
        for content in ADDED
    ]
    added += [entry(vocab[content], content) for content in runs if runs_added]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizer = {
        "each": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]},
        "none": replace,
    }.get(prefix)
    split = (
        {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        if prefix == "none"
        else None
    )
    if prefix in ("first", "never"):
        split = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": prefix, "split": False}
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": split,
        "post_processor": processor(template),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [[left, right] for *_, left, right in sorted(merges, key=lambda merge: merge[:2])],
        },
    }


@cache
def _trained_characters() -> list[str]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    trainer = trainers.BpeTrainer(vocab_size=1100, show_progress=False)
    texts = [*TRAINING, *random_texts(200, seed=1)]
    # Rare characters are left to the byte tokens. The trainer's own limit breaks ties by chance.
    often = {character for character, count in Counter("".join(texts)).items() if count > 5}
    tokenizer.train_from_iterator(("".join(filter(often.__contains__, text)) for text in texts), trainer)
    vocab = tokenizer.get_vocab()
    return sorted(vocab, key=vocab.get)


def spaced(vocabulary: Vocabulary) -> Vocabulary:
    """Gemma's vocabulary as llama.cpp's converter writes it: runs of spaces are tokens found before merges."""
    tokens, types = list(vocabulary.tokens), list(vocabulary.types)
    for index, token in enumerate(tokens):
        if len(token) > 1 and set(token) == {SPACE}:
            tokens[index], types[index] = " " * len(token), USER_DEFINED
    return replace(vocabulary, tokens=tuple(tokens), types=tuple(types))


def write_folder(folder: Path, data: dict, config: dict, generation: dict | None = None) -> Path:
    """A folder with tokenizer.json, tokenizer_config.json and, where given, generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "chat_template": CHAT_TEMPLATE, **config}))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder
