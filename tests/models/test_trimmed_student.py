"""A student with fewer tokens computes what the whole one did, in every family, and both exporters write it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgedistill.export.gguf.check import check_token_ids, verify_gguf
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.export.onnx.build import write_onnx
from edgedistill.export.onnx.check import verify_onnx
from edgedistill.families import FAMILIES
from edgedistill.mixes import Mix, assign_formats
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model, save_model
from edgedistill.models.students.vocabulary import kept_tokens, trim_student
from edgedistill.models.tokenizer import TEST_TEXTS, load_tokenizer
from edgedistill.quant.rounded import round_weights
from tests.export.onnx_session import Session
from tests.tiny import CORPUS, make_tiny

SIZE = 384


@pytest.fixture(scope="module", params=list(FAMILIES))
def students(request, tmp_path_factory) -> tuple[Path, Path]:
    """A whole model and the same with fewer tokens."""
    room = tmp_path_factory.mktemp(request.param)
    whole, cut = make_tiny(request.param, room / "whole"), room / "cut"
    save_model(load_model(whole), whole, cut)
    tokenizer = load_tokenizer(whole)
    trim_student(cut, [torch.tensor(tokenizer(text)["input_ids"]) for text in CORPUS[:3]], SIZE)
    return whole, cut


def test_it_computes_what_the_whole_model_did(students):
    whole, cut = students
    text = CORPUS[1]
    theirs, ours = load_tokenizer(whole)(text)["input_ids"], load_tokenizer(cut)(text)["input_ids"]
    kept = kept_tokens(cut)
    assert kept is not None
    assert kept[ours].tolist() == theirs
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(whole)(torch.tensor([theirs])).logits[..., kept]
        logits = AutoModelForCausalLM.from_pretrained(cut)(torch.tensor([ours])).logits
    assert logits.shape[-1] == SIZE == read_shape(cut).vocab
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_its_file_holds_it_and_splits_as_llama_cpp_does(students, tmp_path):
    _, cut = students
    shape, state = read_shape(cut), load_model(cut).state_dict()
    checkpoint = float_checkpoint({tensor.name: state[tensor.name] for tensor in shape.tensors()}, "f32")
    path = write_gguf(checkpoint, cut, shape, tmp_path / "cut.gguf", {"name": "Tiny"})
    verify_gguf(checkpoint, cut, shape, path)
    assert check_token_ids(cut, path) > 100


def test_its_onnx_folder_holds_it_on_a_grid_and_has_the_same_ids(students, tmp_path):
    """Logits against transformers with the grid's weights; the ids of the folder's tokenizer are llama.cpp's too."""
    _, cut = students
    shape, state = read_shape(cut), load_model(cut).state_dict()
    checkpoint = round_weights(state, assign_formats(shape, Mix("q4_0", "q4_0")), "q4_0")
    folder = write_onnx(checkpoint, cut, shape, tmp_path / "onnx", {}, 0)
    assert verify_onnx(checkpoint, cut, shape, folder).blocks > 0
    ids = load_tokenizer(folder)(CORPUS[1])["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(cut)
    model.load_state_dict({name: checkpoint.decode(name) for name in checkpoint.tensors}, strict=False)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits.numpy()
    logits, _ = Session(folder)([ids])
    assert logits.shape[-1] == SIZE
    torch.testing.assert_close(torch.tensor(logits), torch.tensor(expected), rtol=1e-4, atol=1e-4)
    ours, theirs = load_tokenizer(folder), load_tokenizer(cut)
    assert [ours(text)["input_ids"] for text in TEST_TEXTS] == [theirs(text)["input_ids"] for text in TEST_TEXTS]
