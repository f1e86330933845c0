"""One file measured on its own: its text is read as its model reads texts, against what the same model in transformers
makes of it.
"""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgedistill.errors import InputError
from edgedistill.measure.bench import BenchSettings, bench
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
