"""A model that knows three answers, as a GGUF file and an ONNX folder in q8_0, and bundles of it."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from edgedistill.bundle.folder import write_bundle
from edgedistill.export.gguf.write import write_gguf
from edgedistill.export.onnx.build import write_onnx
from edgedistill.mixes import assign_formats
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.quant.rounded import round_weights
from edgedistill.results.report import Report, Teaching
from tests.report.sample import parts, report_of
from tests.tiny import CHAT_TEMPLATE, KNOWN, make_knowing_llama, make_tokenizer

QUESTION = "How many days are there?"  # not the one that programs ask by themselves


def pack(model: Path, out: Path, mix: str = "q8_0") -> dict[str, Path]:
    """The model of a Hugging Face folder rounded to a mix, as a GGUF file and an ONNX folder, by gguf-MIX and
    onnx-MIX.
    """
    shape = read_shape(model)
    checkpoint = round_weights(load_model(model).state_dict(), assign_formats(shape, mix), mix)
    return {
        f"gguf-{mix}": write_gguf(checkpoint, model, shape, out / f"{mix}.gguf", {"name": "Tiny"}),
        f"onnx-{mix}": write_onnx(checkpoint, model, shape, out / f"{mix}-onnx", {"name": "Tiny"}),
    }


def tiny_gguf(name: str = "tiny", context: int = 2048, templates: dict[str, str] | None = None) -> bytes:
    """A GGUF file with a tokenizer, chat templates and one tensor: what a bundle reads of one, and nothing that a model
    needs.
    """
    import gguf
    import numpy as np

    tokenizer = make_tokenizer()
    spelled = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name(name)
        writer.add_context_length(context)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(sorted(spelled["vocab"], key=spelled["vocab"].get))
        writer.add_token_merges([" ".join(merge) for merge in spelled["merges"]])
        writer.add_bos_token_id(tokenizer.bos_token_id)
        writer.add_eos_token_id(tokenizer.eos_token_id)
        writer.add_chat_template(CHAT_TEMPLATE)
        if templates:
            writer.add_array("tokenizer.chat_templates", list(templates))
        for key, template in (templates or {}).items():
            writer.add_string(f"tokenizer.chat_template.{key}", template)
        writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def unmeasured() -> Report:
    """A report of files that nobody measured."""
    return replace(report_of(**parts()), rows=())


def taught_with(system: str) -> Report:
    """The same, of a model all of whose training chats began with a system message."""
    return replace(unmeasured(), teach=Teaching(system=system))


def run(command: list, folder: Path, **more) -> subprocess.CompletedProcess[str]:
    """A program of a bundle, run where it lies, without a hub."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **more.pop("env", {})}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment, **more)


def answer_of(command: list, folder: Path, **more) -> str:
    """What a program of a bundle answers."""
    done = run(command, folder, **more)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.removesuffix("\n")


def python(program: str, folder: Path, question: str = QUESTION, **more) -> str:
    """What a Python program of a bundle answers."""
    return answer_of([sys.executable, program, question], folder, **more)


@pytest.fixture(scope="session")
def knowing_llama(tmp_path_factory) -> Path:
    """The model's Hugging Face folder; read it, never write into it."""
    return make_knowing_llama(tmp_path_factory.mktemp("models") / "knowing-llama")


@pytest.fixture(scope="session")
def packed(knowing_llama, tmp_path_factory) -> dict[str, Path]:
    """Its files; read them, never write into them."""
    return pack(knowing_llama, tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="session")
def bundle(packed, knowing_llama, tmp_path_factory) -> Path:
    """A bundle with both formats; programs may leave caches in it."""
    return write_bundle(
        packed, unmeasured(), tmp_path_factory.mktemp("bundles") / "both", "Tiny Talker", model=knowing_llama
    )


@pytest.fixture(scope="session")
def expected(packed) -> dict[str, str]:
    """What our own runtimes answer to QUESTION, greedily, by "gguf" and "onnx"."""
    from edgedistill.runtimes.llama import LlamaCpp
    from edgedistill.runtimes.onnx import OnnxRuntime
    from edgedistill.templates.render import render

    found = {}
    for kind, path in packed.items():
        with (
            LlamaCpp(path, threads=1, context=256, parallel=1)
            if kind == "gguf-q8_0"
            else OnnxRuntime(path, threads=1) as model
        ):
            chat = render(
                model.info().chat_template,
                [{"role": "user", "content": QUESTION}],
                bos="<|im_start|>",
                eos="<|im_end|>",
            )
            ids = model.generate(model.tokenize(chat), 128, stop_ids=None)
            assert ids[-1] in model.info().stop_ids, "the model of the test must end its answers"
            found[kind[:4]] = model.detokenize(ids[:-1])
    assert set(found.values()) == {KNOWN[QUESTION]}
    return found
