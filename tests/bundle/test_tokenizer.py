"""The tokenizer beside the GGUF, and the settings that programs are written from, by each way that they come."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from edgedistill.bundle.folder import write_bundle
from edgedistill.bundle.settings import MOST_CONTEXT, read_settings
from edgedistill.bundle.tokenizer import place_tokenizer
from edgedistill.errors import InputError
from tests.bundle.conftest import QUESTION, tiny_gguf, unmeasured
from tests.tiny import CHAT_TEMPLATE

CHAT = [{"role": "user", "content": QUESTION}]


def test_the_tokenizer_beside_the_gguf_gives_the_student_s_ids_and_chat(bundle, knowing_llama):
    ours, student = (AutoTokenizer.from_pretrained(folder) for folder in (bundle, knowing_llama))
    chat = student.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert ours.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == chat
    assert ours(chat)["input_ids"] == student(chat)["input_ids"]
    # transformers.js reads the template here and nowhere else.
    assert json.loads((bundle / "tokenizer_config.json").read_text())["chat_template"] == CHAT_TEMPLATE
    assert json.loads((bundle / "generation_config.json").read_text())["eos_token_id"] == student.eos_token_id


def test_every_onnx_folder_has_what_its_runtimes_read(bundle):
    folder = bundle / "onnx-q8_0"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "chat_template.jinja",
        "config.json",
        "genai_config.json",
        "generation_config.json",
        "onnx/model_quantized.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads((folder / "tokenizer_config.json").read_text())["chat_template"] == CHAT_TEMPLATE
    config = json.loads((folder / "config.json").read_text())
    assert all(
        isinstance(config[key], int)
        for key in ("num_attention_heads", "num_key_value_heads", "hidden_size", "vocab_size")
    )
    decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    assert (folder / decoder["filename"]).is_file()
    assert isinstance(decoder["head_size"], int)


def test_without_the_student_the_gguf_s_own_tokenizer_is_rebuilt(packed, knowing_llama, tmp_path):
    out = write_bundle({"gguf-q8_0": packed["gguf-q8_0"]}, unmeasured(), tmp_path / "bundle", "m")
    ours, student = (AutoTokenizer.from_pretrained(folder) for folder in (out, knowing_llama))
    text = "In 1984 there were 365 days.<|im_end|>\n naïve"
    assert ours(text)["input_ids"] == student(text)["input_ids"]
    assert (out / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert not (out / "generation_config.json").exists()  # a GGUF holds none
    assert not (out / ".tokenizer").exists()


def test_the_hub_s_links_become_files(knowing_llama, tmp_path):
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for file in knowing_llama.iterdir():
        (linked / file.name).symlink_to(file)
    out = tmp_path / "out"
    out.mkdir()
    place_tokenizer(out, linked)
    assert {path.name for path in out.iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    }
    assert not any(path.is_symlink() for path in out.iterdir())


def test_a_damaged_file_is_named(knowing_llama, tmp_path):
    broken, out = tmp_path / "broken", tmp_path / "out"
    shutil.copytree(knowing_llama, broken)
    out.mkdir()
    (broken / "generation_config.json").write_text("{")
    with pytest.raises(InputError, match=r"generation_config\.json: not valid JSON"):
        place_tokenizer(out, broken)


def test_settings_come_from_the_gguf_or_the_onnx_folder(packed, tmp_path):
    by_gguf = read_settings({"gguf-q8_0": packed["gguf-q8_0"]}, None)
    assert by_gguf == read_settings({"onnx-q8_0": packed["onnx-q8_0"]}, None)
    assert (by_gguf.template, by_gguf.bos, by_gguf.eos, by_gguf.context) == (
        CHAT_TEMPLATE,
        "<|im_start|>",
        "<|im_end|>",
        256,
    )
    assert by_gguf.ends == ("<|im_end|>", "<|endoftext|>")
    (tmp_path / "long.gguf").write_bytes(tiny_gguf(context=131072))
    assert read_settings({"gguf-q8_0": tmp_path / "long.gguf"}, None).context == MOST_CONTEXT
