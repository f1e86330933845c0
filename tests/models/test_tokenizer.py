"""Tokenizers between Hugging Face folders and plain data: what is kept, what is refused and in which words."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from edgedistill.errors import InputError
from edgedistill.models.pretokenizers import PRE_TOKENIZERS, name_of
from edgedistill.models.tokenizer import TEST_TEXTS, load_tokenizer, save_tokenizer
from edgedistill.models.vocabulary import CONTROL, NORMAL, USER_DEFINED, detect_pre, read_vocabulary
from tests.tokenizers import entry


@pytest.fixture
def folder(tiny_llama, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def change(folder: Path, edit) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_the_tokenizer_is_what_transformers_makes_of_the_folder(tiny_llama):
    ours, theirs = load_tokenizer(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    for text in TEST_TEXTS:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"]
        assert ours.decode(ids) == text
    assert (ours.eos_token, ours.bos_token, ours.pad_token, ours.unk_token) == (
        "<|im_end|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    messages = [{"role": "user", "content": "Hi"}]
    asked = ours.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_a_saved_tokenizer_is_the_same_for_transformers_and_for_us(tiny_llama, tmp_path):
    save_tokenizer(tiny_llama, tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").read_bytes() == (tiny_llama / "tokenizer.json").read_bytes()
    assert read_vocabulary(tmp_path / "saved") == read_vocabulary(tiny_llama)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "saved"), load_tokenizer(tiny_llama)
    assert [theirs(text)["input_ids"] for text in TEST_TEXTS] == [ours(text)["input_ids"] for text in TEST_TEXTS]
    assert theirs.chat_template == ours.chat_template
    # transformers.js reads the template from here alone.
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["chat_template"] == ours.chat_template


def test_kinds_of_tokens(folder):
    def edit(data):
        data["added_tokens"].append(
            {"id": 512, "content": "<tool>", "special": False, "lstrip": False, "rstrip": False}
        )

    change(folder, edit)
    vocabulary = read_vocabulary(folder)
    assert vocabulary.types[:4] == (CONTROL, CONTROL, CONTROL, NORMAL)
    assert (vocabulary.tokens[512], vocabulary.types[512]) == ("<tool>", USER_DEFINED)


@pytest.mark.parametrize("ids", [(513, 512), (512, 519)], ids=["out of order", "a hole"])
def test_added_tokens_have_the_ids_that_the_library_gives_them(ids, folder):
    def edit(data):
        for index, content in zip(ids, ("<one>", "<two>"), strict=True):
            data["added_tokens"].append(entry(index, content))

    change(folder, edit)
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    odd = next(
        token for token, index in zip(("<one>", "<two>"), ids, strict=True) if library.token_to_id(token) != index
    )
    with pytest.raises(InputError, match=f"its added token '{odd}' has the id .* gives it {library.token_to_id(odd)}"):
        read_vocabulary(folder)


def test_a_tokenizer_that_cuts_and_pads_is_used_without_either(folder, tmp_path):
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 2}

    def edit(data):
        data["truncation"] = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
        data["padding"] = padding | {"pad_type_id": 0, "pad_token": "<|im_end|>"}

    whole = load_tokenizer(folder)("word " * 20)["input_ids"]
    change(folder, edit)
    assert load_tokenizer(folder)("word " * 20)["input_ids"] == whole
    save_tokenizer(folder, tmp_path / "saved")
    assert Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json")).encode("word " * 20).ids == whole


def test_an_end_in_config_json_counts_where_no_generation_config_is(folder):
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [2, 7, None, -1]}))
    vocabulary = read_vocabulary(folder)
    assert (vocabulary.eos, vocabulary.eot) == (2, 7)


def test_special_tokens_of_older_folders(folder):
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>"})
    )
    vocabulary = read_vocabulary(folder)
    assert (vocabulary.eos, vocabulary.bos, vocabulary.pad) == (2, 1, None)


def test_of_several_templates_the_default_is_taken(folder):
    (folder / "chat_template.jinja").unlink()
    assert read_vocabulary(folder).chat_template is None
    templates = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": templates}))
    assert read_vocabulary(folder).chat_template == "D"


def test_splits_are_found_whatever_has_no_effect():
    smollm = json.loads(json.dumps(PRE_TOKENIZERS["smollm"]))
    del smollm["pretokenizers"][1]["trim_offsets"]
    del smollm["pretokenizers"][1]["use_regex"]
    assert name_of(smollm) == "smollm"
    assert name_of({"type": "Sequence", "pretokenizers": [PRE_TOKENIZERS["gpt-2"]]}) == "gpt-2"
    assert name_of(None) is None
    smollm["pretokenizers"][0]["individual_digits"] = False
    assert name_of(smollm) is None


def test_detect_pre(tiny_llama, tmp_path):
    assert detect_pre(tiny_llama) == ("gpt2", "smollm")
    with pytest.raises(InputError, match="has no tokenizer.json"):
        detect_pre(tmp_path)


def template(*pieces: str) -> dict:
    single = [
        {"Sequence": {"id": "A", "type_id": 0}} if p == "$A" else {"SpecialToken": {"id": p, "type_id": 0}}
        for p in pieces
    ]
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}


REFUSED = [
    (
        lambda d: d["model"].update(type="Unigram"),
        "the tokenizer is of type 'Unigram', which we can't give llama.cpp unchanged",
    ),
    (lambda d: d["model"].update(byte_fallback=True), "it normalizes text by null and splits it by .*Sequence"),
    (lambda d: d["model"].update(dropout=0.1), "its BPE has dropout 0.1"),
    (lambda d: d["model"].update(ignore_merges=True), "its BPE has ignore_merges True with the split 'smollm'"),
    (lambda d: d.update(normalizer={"type": "Lowercase"}), 'it normalizes text by {"type": "Lowercase"}'),
    (
        lambda d: d.update(pre_tokenizer={"type": "Whitespace"}),
        'it splits text by {"type": "Whitespace"}.*split as smollm, gpt-2',
    ),
    (lambda d: d.update(pre_tokenizer=None), "it splits text by null"),
    (lambda d: d["added_tokens"][0].update(lstrip=True), "its token '<.endoftext.>' has lstrip"),
    (lambda d: d["added_tokens"][0].update(id=10**9), r"its \d+ tokens have ids from 0 to 1000000000"),
    (lambda d: d["model"]["vocab"].update({"a": "x"}), "malformed tokenizer .ValueError: invalid literal"),
    (lambda d: d["model"].pop("vocab"), "malformed tokenizer .KeyError: 'vocab'"),
    (lambda d: d["model"].update(merges=[]), "has no merges"),
    (lambda d: d["model"]["merges"].append("a b c"), "merge 'a b c' isn't two tokens that make a third one"),
    (lambda d: d["model"]["merges"].append(["qzx", "zzq"]), "merge 'qzx zzq' isn't two tokens"),
    (lambda d: d["added_tokens"].append({"id": 700, "content": "a"}), "1 ids have the same token as another"),
    (
        lambda d: d.update(post_processor=template("$A", "<|im_start|>")),
        "adds something other than the bos token before",
    ),
    (lambda d: d.update(post_processor={"type": "BertProcessing"}), "its post-processor .*BertProcessing"),
]


@pytest.mark.parametrize(("edit", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_what_llama_cpp_would_split_otherwise_is_refused(edit, said, folder):
    change(folder, edit)
    with pytest.raises(InputError, match=said):
        load_tokenizer(folder)


def test_what_the_backend_refuses_is_said(folder):
    change(folder, lambda d: d.update(decoder={"type": "Nonsense"}))
    with pytest.raises(InputError, match="the tokenizer can't be built: "):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("pieces", "adds"), [(("$A",), (False, False)), (("<|im_start|>", "$A", "<|im_end|>"), (True, True))]
)
def test_what_is_added_around_a_text(pieces, adds, folder):
    change(
        folder,
        lambda d: d.update(
            post_processor={"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(*pieces)]}
        ),
    )
    vocabulary = read_vocabulary(folder)
    assert (vocabulary.add_bos, vocabulary.add_eos) == adds
