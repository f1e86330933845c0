"""Tokenizers that we refuse because llama.cpp would split text otherwise, and the words in which we say so."""

import json
import struct

import pytest

from edgedistill.errors import InputError
from edgedistill.models.pretokenizers import PRE_TOKENIZERS, name_of
from edgedistill.models.sentencepiece import UNFORMED, merges_of, scores_of
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.models.vocabulary import BYTE, CONTROL, NORMAL, USER_DEFINED, detect_pre, read_vocabulary
from tests.tokenizers import ADDED, byte_level, entry, sentencepiece, write_folder

PREPEND = {"type": "Prepend", "prepend": "▁"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


def add(data: dict, content: str, **flags: bool) -> None:
    data["model"]["vocab"].setdefault(content, len(data["model"]["vocab"]))
    data["added_tokens"].append(entry(data["model"]["vocab"][content], content, **flags))


def twice_made(data: dict) -> int:
    """The first merge that makes the same token as the one before it."""
    made = ["".join(merge) for merge in data["model"]["merges"]]
    return next(at for at in range(1, len(made)) if made[at] == made[at - 1])


REFUSED = [
    (lambda d: d["model"].update(ignore_merges=True), "its BPE has byte_fallback and ignore_merges"),
    (
        lambda d: d.update(normalizer={"type": "NFKC"}),
        'it normalizes text by {"type": "NFKC"}, .* and sentencepiece\'s BPE',
    ),
    (lambda d: d.update(normalizer=None), "it normalizes text by null"),
    (
        lambda d: d.update(normalizer=PREPEND, pre_tokenizer=METASPACE),
        "it normalizes text by .*Prepend.* splits it by .*Metaspace",
    ),
    (
        lambda d: d.update(normalizer=None, pre_tokenizer={**METASPACE, "split": True}),
        "its Metaspace splits text at spaces",
    ),
    (
        lambda d: d.update(normalizer=None, pre_tokenizer={**METASPACE, "prepend_scheme": "always"}),
        "Metaspace has prepend_scheme 'always'",
    ),
    (
        lambda d: d["model"]["vocab"].pop("<0x00>"),
        "1 of the 256 byte tokens are missing, among them <0x00>; llama.cpp can't do without",
    ),
    (
        lambda d: d["model"]["merges"].remove(["t", "h"]),
        "llama.cpp would join 't' and 'h' to the token 'th', which its merges don't say",
    ),
    (
        lambda d: d["model"]["merges"].append(d["model"]["merges"].pop(twice_made(d))),
        "its merges make '.*' partly before and partly after",
    ),
    (
        lambda d: d["model"]["vocab"].update({"☃☁": len(d["model"]["vocab"])}),
        "llama.cpp would join '☃' and '☁' to the token '☃☁'",
    ),
    (lambda d: add(d, "<x>", normalized=True), "its token '<x>' is searched for after a space was put before the text"),
    (lambda d: add(d, "<x>", lstrip=True), "its token '<x>' has lstrip"),
    (lambda d: add(d, "<x>", single_word=True), "its token '<x>' has single_word"),
    (
        lambda d: add(d, "<x>", rstrip=True),
        "its token '</s>' hasn't rstrip; llama.cpp strips spaces behind all special",
    ),
    (lambda d: add(d, ""), r"its token \d+ has no text"),
    (lambda d: add(d, "a\0b"), r"its token \d+ is 'a\\x00b'; llama.cpp would cut it off at the NUL"),
    (
        lambda d: [add(d, "<a><b"), add(d, "<b>cdef")],
        "its tokens '<a><b' and '<b>cdef' overlap in '<b': .*llama.cpp takes the longer one",
    ),
    (lambda d: [add(d, "--"), add(d, "-----")], "its tokens '--' and '-----' overlap in '-'"),
]


@pytest.mark.parametrize(("edit", "said"), REFUSED, ids=[said[:45] for _, said in REFUSED])
def test_what_llama_cpp_would_split_otherwise_is_refused(edit, said, tmp_path):
    data = sentencepiece("each")
    edit(data)
    with pytest.raises(InputError, match=said):
        read_vocabulary(write_folder(tmp_path, data, {}))


@pytest.mark.parametrize("prefix", ["each", "none", "first", "never"])
def test_sentencepiece_is_known_by_its_structure(prefix, tmp_path):
    folder = write_folder(tmp_path, sentencepiece(prefix, runs_added=prefix == "none"), {})
    assert detect_pre(folder) == ("llama", "default")
    vocabulary = read_vocabulary(folder)
    assert vocabulary.prefix == {"never": "none"}.get(prefix, prefix)
    by_text = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert [by_text[t] for t in ("<s>", "<tool>", "<0x0A>", "▁▁▁", "th")] == [
        CONTROL,
        USER_DEFINED,
        BYTE,
        NORMAL,
        NORMAL,
    ]
    assert not vocabulary.merges
    assert vocabulary.scores[ADDED.index("<|endoftext|>")] == UNFORMED


def test_runs_of_one_character_may_be_added_in_every_length(tmp_path):
    data = sentencepiece("each")
    for length in range(2, 9):
        add(data, "-" * length)
    assert read_vocabulary(write_folder(tmp_path, data, {})).types[-1] in (NORMAL, USER_DEFINED)


def test_a_token_beyond_gemmas_embedding_is_left_out(tmp_path):
    data = sentencepiece("none")
    rows = len(data["model"]["vocab"])
    data["added_tokens"].append(entry(rows, "<image_soft_token>"))
    folder = write_folder(tmp_path, data, {})
    assert len(read_vocabulary(folder).tokens) == rows + 1
    (folder / "config.json").write_text(json.dumps({"vocab_size": rows}))
    assert len(read_vocabulary(folder).tokens) == rows
    data["added_tokens"][-1]["content"] = "<other>"
    (folder / "tokenizer.json").write_text(json.dumps(data))
    assert len(read_vocabulary(folder).tokens) == rows + 1  # which is then refused: the embedding was not resized


def test_scores_and_merges_say_the_same(tmp_path):
    data = sentencepiece("none", runs_added=True)
    vocab = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    merges = [tuple(merge) for merge in data["model"]["merges"]]
    scores = scores_of(tmp_path, vocab, merges, frozenset(ADDED))
    assert [struct.unpack("<f", struct.pack("<f", score))[0] for score in scores] == scores  # as the file holds them
    again = merges_of(tmp_path, vocab, [NORMAL] * len(vocab), scores)
    assert sorted(again) == sorted(merges)
    assert scores_of(tmp_path, vocab, again, frozenset(ADDED)) == scores


def test_a_token_of_what_is_no_token_cannot_be_rebuilt(tmp_path):
    with pytest.raises(InputError, match="the token 'ab' is made of 'a' and 'b', one of which is no token"):
        merges_of(tmp_path, ["a", "ab"], [NORMAL, NORMAL], [0.0, -1.0])
    assert merges_of(tmp_path, ["a", "ab"], [NORMAL, CONTROL], [0.0, -1.0]) == []


def test_splits_that_differ_in_ignore_merges_alone():
    llama, qwen = PRE_TOKENIZERS["llama-bpe"], PRE_TOKENIZERS["qwen2"]
    assert [name_of(llama, True), name_of(llama, False), name_of(llama)] == ["llama-bpe", "dbrx", "llama-bpe"]
    assert [name_of(qwen, True), name_of(qwen, False)] == [None, "qwen2"]
    removed = json.loads(json.dumps(PRE_TOKENIZERS["gpt-4o"]))
    removed["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}
    assert name_of(removed, False) == "gpt-4o"


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (2, None),
        ([2, 4], None),
        (5000, "eos_token_id holds 5000; it must be an id below"),
        ([2, "x"], "holds 'x'"),
        ([2, 5, 7, 8, 9], r"ends a text at '<\|user\|>', '<tool>', '\[INST\]', '<\|assistant\|>' beside the eos token"),
    ],
)
def test_ends_by_generation_config(stated, said, tmp_path):
    folder = write_folder(tmp_path, byte_level("gpt-2"), {}, {"eos_token_id": stated})
    if said is None:
        vocabulary = read_vocabulary(folder)
        assert (vocabulary.eot, vocabulary.eom) == (None, None)  # llama.cpp knows <|im_end|> by its text
        assert vocabulary.ends[0] == 2
    else:
        with pytest.raises(InputError, match=said):
            read_vocabulary(folder)


@pytest.mark.parametrize(("template", "adds"), [(["<s>", "$A"], True), (None, False)])
def test_tokenizer_json_alone_says_whether_bos_is_added(template, adds, tmp_path):
    from transformers import AutoTokenizer

    folder = write_folder(tmp_path, byte_level("llama-bpe", template=template), {"add_bos_token": not adds})
    assert read_vocabulary(folder).add_bos is adds
    ids = load_tokenizer(folder)("Hi")["input_ids"]
    assert (ids[0] == 1) is adds
    assert AutoTokenizer.from_pretrained(folder)("Hi")["input_ids"] == ids


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff"])
def test_half_a_character_is_no_text(text, tmp_path):
    with pytest.raises((UnicodeEncodeError, TypeError)):
        load_tokenizer(write_folder(tmp_path, byte_level("gpt-2"), {}))(text)
