"""Each split that we claim to know gives llama.cpp's ids, from a folder and rebuilt from the GGUF file's own keys."""

import json
import random

import pytest

from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.models.pretokenizers import IGNORE_MERGES, PRE_TOKENIZERS
from edgedistill.models.tokenizer import TEST_TEXTS, load_tokenizer, save_tokenizer
from edgedistill.models.vocabulary import read_vocabulary
from tests.tiny import CHAT_TEMPLATE, CORPUS, make_tiny_llama

# What a split decides on: letters of several scripts, marks, digits of several kinds, punctuation, spaces of several kinds.
PIECES = [*"aZ'sStTé\u0301ßжЖ中文한๓٣½²Ⅳ0123456789.,!?-_#$(){}\"<>|\\/@~`^+= \t\n\r\u00a0\u3000\u200d🚀🇫"]
PIECES += ["'ll", "'RE", "  ", "\r\n", "\n\n", " '", "ab", "<|im_start|>", "<|im_end|>", "<tool>"]


def train(folder, pre: str, add_bos: bool) -> None:
    """Put a byte-level BPE tokenizer into `folder` that splits as `pre`, trained on texts in which wrong splits would show."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=pre in IGNORE_MERGES))
    shell = json.loads(tokenizer.to_str())
    shell["pre_tokenizer"] = PRE_TOKENIZERS[pre]
    tokenizer = Tokenizer.from_str(json.dumps(shell))
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, *TEST_TEXTS * 3, *random_texts(200, seed=1)], trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", pair=None, special_tokens=[("<|im_start|>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": CHAT_TEMPLATE}))
    (folder / "chat_template.jinja").unlink()


def random_texts(count: int, seed: int) -> list[str]:
    """Random strings of the pieces."""
    chance = random.Random(seed)
    return ["".join(chance.choices(PIECES, k=chance.randint(1, 24))) for _ in range(count)]


CASES = [("smollm", False), ("gpt-2", True), ("llama-bpe", True), ("llama-bpe", False), ("qwen2", False)]


@pytest.mark.parametrize(("pre", "add_bos"), CASES)
def test_ids_equal_llama_cpps(pre, add_bos, tmp_path, ask_llama):
    folder = make_tiny_llama(tmp_path / "model", layers=1)
    config = json.loads((folder / "config.json").read_text())
    train(folder, pre, add_bos)
    vocabulary = read_vocabulary(folder)
    assert (vocabulary.pre, vocabulary.add_bos, vocabulary.token("pad")) == (pre, add_bos, "<|endoftext|>")
    model = load_model(make_tiny_llama(tmp_path / "weights", layers=1))
    tensors = {t.name: model.state_dict()[t.name] for t in read_shape(folder).tensors()}
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].repeat(5, 1)
    config["vocab_size"] *= 5
    (folder / "config.json").write_text(json.dumps(config))
    path = write_gguf(float_checkpoint(tensors, "f16"), folder, read_shape(folder), tmp_path / "model.gguf", {})

    texts = [*TEST_TEXTS, *random_texts(400, seed=2)]
    expected = ask_llama(path, texts=texts).ids
    folders = load_tokenizer(folder)
    files = load_tokenizer(path)
    save_tokenizer(path, tmp_path / "rebuilt")
    rebuilt = load_tokenizer(tmp_path / "rebuilt")
    for text, ids in zip(texts, expected, strict=True):
        assert folders(text)["input_ids"] == ids, text
        assert files(text)["input_ids"] == ids, text
        assert rebuilt(text)["input_ids"] == ids, text
    assert read_vocabulary(tmp_path / "rebuilt") == read_vocabulary(path)
