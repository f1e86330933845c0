"""A Gemma 3 file as it is published, with runs of spaces, newlines and tabs as tokens, from reading it to a chat with
what is exported of it: in llama.cpp and in onnxruntime.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import gguf
import pytest

from edgedistill.export.gguf.check import check_token_ids
from edgedistill.export.gguf.tokenizer import add_tokenizer
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.models.differences import known_difference
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.models.tokenizer import TEST_TEXTS, load_tokenizer
from edgedistill.models.tokens import USER_DEFINED
from edgedistill.models.vocabulary import read_vocabulary
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.onnx import OnnxRuntime
from tests.e2e.conftest import edgedistill
from tests.tiny import make_tiny, teach_to_talk
from tests.tokenizers import random_texts, sentencepiece, spaced, write_folder

CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '[INST] ' + m['content'] + '\n' if m['role'] == 'user' "
    "else m['content'] + eos_token }}{% endfor %}"
)
ANSWERS = {
    "Write code.": "def add(a, b):\n        return a + b\n\n\n                # end\n\t\tx\t\t\ty",
    "Wide?": "a" + " " * 31 + "b" + " " * 40 + "c\n\n\n\n\n\nd",
}
RUNS = [f"a{character * length}b" for character in " \n\t" for length in (1, 2, 3, 15, 16, 30, 31, 32, 33, 63, 95)]
TEXTS = [*TEST_TEXTS, *RUNS, *ANSWERS.values(), *random_texts(200, seed=5)]
ADDED_SCORE = -1000.0  # what llama.cpp's converter gives every added token


def publish(file: Path, out: Path) -> Path:
    """The same model with its tokenizer as llama.cpp's converter writes it: added tokens without ▁, and of one
    score.
    """
    logging.getLogger("gguf.gguf_writer").setLevel(logging.ERROR)
    vocabulary = spaced(read_vocabulary(file))
    scores = zip(vocabulary.scores, vocabulary.types, strict=True)
    vocabulary = replace(
        vocabulary, scores=tuple(ADDED_SCORE if kind == USER_DEFINED else score for score, kind in scores)
    )
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(out, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if not name.startswith(("GGUF.", "general.architecture", "tokenizer.")):
            kinds = field.types
            writer.add_key_value(name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    add_tokenizer(writer, vocabulary)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def make_file(folder: Path, data: dict, answers: dict[str, str] | None = None, **sizes: object) -> Path:
    """A published file of a tiny Gemma 3 with such a tokenizer, trained to know some answers."""
    vocab = len(data["model"]["vocab"])
    make_tiny("gemma3_text", folder, vocab_size=vocab, pad_token_id=3, eos_token_id=2, bos_token_id=1, **sizes)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    write_folder(folder, data, {"chat_template": CHAT}, {"eos_token_id": [2]})
    if answers:
        teach_to_talk(folder, 60, answers=answers)
    shape = read_shape(folder)
    state = load_model(folder).state_dict()
    checkpoint = float_checkpoint({tensor.name: state[tensor.name] for tensor in shape.tensors()}, "f16")
    file = write_gguf(checkpoint, folder, shape, folder.parent / "ours.gguf", {"name": "Tiny"})
    return publish(file, folder.parent / "gemma-f16.gguf")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = sentencepiece("none", runs_added=True, template=["<s>", "$A"], longest_run=31)
    return make_file(tmp_path_factory.mktemp("gemma") / "model", data, ANSWERS)


@pytest.fixture(scope="module")
def exported(published: Path) -> Path:
    """What `export` makes of it."""
    out = published.parent / "out"
    done = edgedistill("export", published, "-m", "q8_0", "-f", "gguf,onnx", "-o", out)
    assert done.returncode == 0, done.stderr
    return out


def files_of(exported: Path) -> tuple[Path, Path]:
    """The GGUF file and the ONNX folder."""
    (graph,) = exported.rglob("*.onnx")
    (file,) = exported.rglob("*.gguf")
    return file, graph.parent.parent


def ids_of(runtime: LlamaCpp | OnnxRuntime, texts: Sequence[str]) -> list[list[int]]:
    return [runtime.tokenize(text, special=True, add_bos=True) for text in texts]


def test_it_is_as_published_ones_are(published: Path):
    vocabulary = read_vocabulary(published)
    assert {" " * length for length in range(2, 32)} <= set(vocabulary.tokens)
    assert not [token for token in vocabulary.tokens if token.startswith("▁▁")]
    assert {"<0x00>", "<0xFF>", "\n" * 31, "\t" * 31} <= set(vocabulary.tokens)


def test_every_reader_gives_the_ids_of_the_published_file(published: Path, exported: Path):
    file, folder = files_of(exported)
    with LlamaCpp(published, threads=1, context=64, parallel=1) as runtime:
        expected = ids_of(runtime, TEXTS)
    with LlamaCpp(file, threads=1, context=64, parallel=1) as runtime:
        assert ids_of(runtime, TEXTS) == expected
    vocabulary, compared = read_vocabulary(published), 0
    with OnnxRuntime(folder, threads=1, context=64) as runtime:
        tokenizers = [load_tokenizer(place) for place in (published, file, folder)]
        for text, ids, in_onnx in zip(TEXTS, expected, ids_of(runtime, TEXTS), strict=True):
            if known_difference(vocabulary, text) is None:
                assert in_onnx == ids, text
                assert [tokenizer(text)["input_ids"] for tokenizer in tokenizers] == [ids] * 3, text
                compared += 1
    assert compared > 0.7 * len(TEXTS)


def test_a_chat_with_either_file_keeps_every_space(exported: Path):
    typed = "".join(f"{question}\n/reset\n" for question in ANSWERS)
    for artifact in files_of(exported):
        words = ["chat", artifact, "--temperature", 0, "--max-tokens", 100, "--context", 200, "--threads", 1, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "edgedistill", *map(str, words)],
            input=typed,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert {answer["question"]: answer["answer"] for answer in answers} == ANSWERS


@pytest.mark.slow
def test_a_vocabulary_of_gemmas_size(tmp_path: Path):
    """262,144 tokens, of which most are pairs of characters, each with its merge."""
    data = sentencepiece("none", runs_added=True, template=["<s>", "$A"], longest_run=31)
    vocab, merges = data["model"]["vocab"], data["model"]["merges"]
    for pair in product(map(chr, range(0x4E00, 0x4E00 + 600)), repeat=2):
        for token in (*pair, "".join(pair)):
            if token not in vocab and len(vocab) < 262_144:
                vocab[token] = len(vocab)
                merges += [list(token)] if len(token) == 2 else []
    assert len(vocab) == 262_144
    published = make_file(tmp_path / "model", data, hidden_size=32, num_hidden_layers=2)
    out = tmp_path / "out"
    done = edgedistill("export", published, "-m", "q4_0", "-f", "gguf,onnx", "-o", out)
    assert done.returncode == 0, done.stderr
    texts = [*TEST_TEXTS, *RUNS, "".join(map(chr, range(0x4E00, 0x4E00 + 600)))]
    assert check_token_ids(tmp_path / "model", files_of(out)[0], texts) > 1000
