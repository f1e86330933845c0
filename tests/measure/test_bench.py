"""One file measured on its own: its text is read as its model reads texts, against what the same model in transformers
makes of it.
"""

import hashlib
import json
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgedistill.errors import DoesNotFitError, InputError
from edgedistill.measure import bench as bench_module
from edgedistill.measure.artifacts import packed_bytes, packed_sha256
from edgedistill.measure.bench import BenchSettings, bench, read_text
from edgedistill.progress import QuietProgress
from tests.runtimes.conftest import write_gguf

SETTINGS = BenchSettings(prefill=8, decode=4, repetitions=1, threads=1)
TEXT = "The old cat sees the red fox. " * 12


@pytest.mark.parametrize("add_bos", [False, True])
def test_a_text_begins_as_the_file_says_that_texts_do(tiny_llama: Path, tmp_path: Path, add_bos: bool):
    (tmp_path / "text.txt").write_text(TEXT)
    path = write_gguf(tiny_llama, tmp_path / "tiny.gguf", add_bos=add_bos)
    found = bench(path, tmp_path / "text.txt", None, SETTINGS, tmp_path, QuietProgress()).quality["text.txt"]
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(tiny_llama)(TEXT, add_special_tokens=False)["input_ids"]
    read = torch.tensor([[*([model.config.bos_token_id] if add_bos else []), *ids]])
    with torch.no_grad():
        loss = model(input_ids=read, labels=read).loss.item()
    assert found.tokens == read.numel() - 1
    assert found.ppl == pytest.approx(math.exp(loss), rel=1e-3)


def test_a_reference_with_other_words_is_an_error(tiny_llama: Path, tmp_path: Path):
    (tmp_path / "text.txt").write_text(TEXT)
    path = write_gguf(tiny_llama, tmp_path / "tiny.gguf")
    same = bench(path, tmp_path / "text.txt", tiny_llama, SETTINGS, tmp_path, QuietProgress())
    assert same.kl < 1e-3
    larger = AutoModelForCausalLM.from_pretrained(tiny_llama)
    larger.resize_token_embeddings(larger.config.vocab_size + 64)
    shutil.copytree(tiny_llama, tmp_path / "larger")
    larger.save_pretrained(tmp_path / "larger")
    # The same words behind a table with other padding rows are the same distribution.
    padded = bench(path, tmp_path / "text.txt", tmp_path / "larger", SETTINGS, tmp_path, QuietProgress())
    assert padded.kl < 1e-3
    shutil.copytree(tiny_llama, tmp_path / "other")
    tokenizer = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["t"] = words["t"], words["a"]
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        InputError, match=r"^--reference .*other: its tokenizer isn't that of .*tiny\.gguf; name the model"
    ):
        bench(path, tmp_path / "text.txt", tmp_path / "other", SETTINGS, tmp_path, QuietProgress())


def test_a_text_is_read_before_the_model_is_loaded(tmp_path: Path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")  # loading it would be another error
    with pytest.raises(InputError, match=r"^--text .*none\.txt: it can't be read \(No such file or directory\)"):
        bench(tmp_path / "broken.gguf", tmp_path / "none.txt", None, SETTINGS, tmp_path, QuietProgress())


@pytest.mark.parametrize("option", ["prefill", "decode"])
def test_more_tokens_than_the_model_was_trained_for_are_refused(tiny_llama: Path, tmp_path: Path, option: str):
    path = write_gguf(tiny_llama, tmp_path / "tiny.gguf")
    trained = json.loads((tiny_llama / "config.json").read_text())["max_position_embeddings"]
    with pytest.raises(InputError, match=rf"--{option} is {trained + 1}; .*tiny.gguf was trained for {trained} tokens"):
        bench(path, None, None, replace(SETTINGS, **{option: trained + 1}), tmp_path, QuietProgress())


def test_a_context_that_no_memory_is_there_for_is_refused_before_it_is_allocated(tiny_llama, tmp_path, monkeypatch):
    path = write_gguf(tiny_llama, tmp_path / "tiny.gguf")
    monkeypatch.setattr(bench_module, "free_memory_bytes", lambda: path.stat().st_size)
    with pytest.raises(
        DoesNotFitError, match=r"tiny.gguf: .* for its weights and the cache of 513 tokens; .* are free"
    ):
        bench(path, None, None, SETTINGS, tmp_path, QuietProgress())


def test_a_file_in_parts_is_as_large_as_all_of_them(tmp_path: Path):
    parts = [tmp_path / f"m-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        part.write_bytes(b"x" * number)
    assert packed_bytes(parts[0]) == 6
    hashes = subprocess.run(["sha256sum", *(p.name for p in parts)], cwd=tmp_path, capture_output=True, check=True)
    assert packed_sha256(parts[0]) == hashlib.sha256(hashes.stdout).hexdigest()
    with pytest.raises(InputError, match=r"part 2 of 3; name the first one, m-00001-of-00003.gguf"):
        packed_bytes(parts[1])
    parts[2].unlink()
    with pytest.raises(InputError, match=r"m-00003-of-00003.gguf: it is missing, one of the 3 parts"):
        packed_sha256(parts[0])


def test_rows_are_no_text_to_judge_on(tmp_path):
    path = tmp_path / "chats.JSON"
    path.write_text('["a text"]')
    with pytest.raises(InputError, match=r"chats\.JSON: --text names a \.JSON file"):
        read_text(path)
