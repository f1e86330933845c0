"""A tokenizer cut down to a text's own tokens: that text keeps its ids, and llama.cpp splits all others alike."""

import json
from collections import Counter
from pathlib import Path

import pytest

from edgedistill.errors import InputError
from edgedistill.models.differences import known_difference
from edgedistill.models.tokenizer import TEST_TEXTS, load_tokenizer
from edgedistill.models.trim import Joins, choose_tokens, least_size, trim_tokenizer
from edgedistill.models.vocabulary import read_vocabulary
from tests.export.test_gguf_tokenizer import Case, ask, cases, ids, write_file
from tests.tokenizers import write_folder

USED = TEST_TEXTS[:12]  # what a task's text has; the others are foreign to it


def counted(folder: Path) -> Counter[int]:
    tokenizer = load_tokenizer(folder)
    return Counter(token for text in USED for token in ids(tokenizer, text, True))


@pytest.fixture(scope="module", params=list(cases()))
def trimmed(request, tmp_path_factory) -> tuple[Path, Path, tuple[int, ...]]:
    """A whole tokenizer's folder, the same cut down, and what was kept."""
    case: Case = cases()[request.param]
    room = tmp_path_factory.mktemp("trimmed")
    whole = write_folder(room / "whole", case.make(), case.config)
    cut = write_folder(room / "cut", case.make(), case.config)
    counts = counted(whole)
    size = least_size(read_vocabulary(whole))
    kept: tuple[int, ...] = ()
    while not set(counts) <= set(kept):
        size += 8
        kept = choose_tokens(whole, counts, min(size, len(read_vocabulary(whole).tokens)))
    trim_tokenizer(cut, kept)
    return whole, cut, kept


def test_a_texts_ids_stay_but_for_their_numbers(trimmed):
    whole, cut, kept = trimmed
    new_ids = {old: new for new, old in enumerate(kept)}
    before, after = load_tokenizer(whole), load_tokenizer(cut)
    for text in USED:
        for special in (True, False):
            expected = [new_ids[token] for token in ids(before, text, special) if token in new_ids]
            if len(expected) == len(ids(before, text, special)):
                assert ids(after, text, special) == expected, text
    assert len(read_vocabulary(cut).tokens) == len(kept)


def test_llama_cpp_splits_every_text_alike(trimmed, tmp_path):
    _, cut, _ = trimmed
    vocabulary = read_vocabulary(cut)
    file = write_file(cut, tmp_path / "cut.gguf")
    tokenizer = load_tokenizer(cut)
    for special in (True, False):
        (answer,) = ask([{"path": str(file), "texts": list(TEST_TEXTS), "special": special}])
        for text, expected in zip(TEST_TEXTS, answer["ids"], strict=True):
            if not known_difference(vocabulary, text, special):
                assert ids(tokenizer, text, special) == expected, text


def test_every_text_is_still_written_back(trimmed):
    _, cut, _ = trimmed
    tokenizer = load_tokenizer(cut)
    for text in ("naïve 猫 🚀", "x" * 40, "Zyzzyva\tqux"):
        assert tokenizer.decode(ids(tokenizer, text, False), skip_special_tokens=True).strip() == text


def test_joins_pass_through_pieces():
    joins = Joins([("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("l", "o")])
    assert joins.pieces("hello") == {"h", "e", "l", "o", "he", "ll", "hell", "hello"}
    assert joins.pieces("lo") == {"l", "o", "lo"}


def test_a_size_that_cannot_be_had_is_refused(trimmed):
    whole, _, _ = trimmed
    least, most = least_size(read_vocabulary(whole)), len(read_vocabulary(whole).tokens)
    for size in (least - 1, most + 1):
        with pytest.raises(InputError, match=rf"a vocabulary of {size} can't be made of it. Choose from {least} to"):
            choose_tokens(whole, {}, size)


def test_configs_get_the_new_ids(tmp_path):
    case = cases()["llama 2"]
    folder = write_folder(tmp_path, case.make(), case.config)
    vocabulary = read_vocabulary(folder)
    (folder / "config.json").write_text(json.dumps({"vocab_size": 999, "eos_token_id": vocabulary.eos}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [vocabulary.eos], "pad_token_id": None}))
    trim_tokenizer(folder, choose_tokens(folder, {}, least_size(read_vocabulary(folder))))
    after = read_vocabulary(folder)
    assert json.loads((folder / "config.json").read_text()) == {
        "vocab_size": len(after.tokens),
        "eos_token_id": after.eos,
    }
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [after.eos], "pad_token_id": None}
    assert after.token("eos") == vocabulary.token("eos")
