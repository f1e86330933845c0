"""A student with fewer tokens computes what the whole one did, in every family, and both exporters write it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgedistill.export.gguf.check import check_token_ids, verify_gguf
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.families import FAMILIES
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model, save_model
from edgedistill.models.students.vocabulary import kept_tokens, trim_student
from edgedistill.models.tokenizer import load_tokenizer
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
