"""llama.cpp's own files: the importance matrix against transformers' layer norms, the files against ggml's quantizer
called row by row.
"""

import json

import pytest
import torch
from contest import judges, llama_rows
from contest.importance import write_importance
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.measure.judge import make_reference
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_weights import packed_tensors
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.quant import ggml
from tests.tiny import CORPUS

TEXT = " ".join(CORPUS) * 12


@pytest.fixture(scope="module")
def made(tiny_llama, tmp_path_factory):
    """A folder with the float file, the importance matrix and llama.cpp's files of q4_0 and q8_0."""
    work = tmp_path_factory.mktemp("contest")
    shape = read_shape(tiny_llama)
    state = load_model(tiny_llama).state_dict()
    floats = float_checkpoint({tensor.name: state[tensor.name] for tensor in shape.tensors()}, "f32")
    write_gguf(floats, tiny_llama, shape, work / "f32.gguf", {"name": "tiny"})
    tokens = write_importance(tiny_llama, TEXT, work / "importance.safetensors", QuietProgress())
    llama_rows.make_rows(work / "f32.gguf", ["q4_0", "q8_0"], work / "importance.safetensors", tokens, work, 1)
    return work


def test_importance_is_the_mean_square_of_inputs(tiny_llama, made):
    ids = AutoTokenizer.from_pretrained(tiny_llama)(TEXT, add_special_tokens=False)["input_ids"]
    windows = torch.tensor(ids[: len(ids) // 512 * 512]).view(-1, 512)
    assert len(windows) > 1
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        layers = model.model(input_ids=windows, output_hidden_states=True).hidden_states
        expected = model.model.layers[2].input_layernorm(layers[2]).double().square().mean((0, 1))
    found = load_file(made / "importance.safetensors")
    for part in "qkv":
        torch.testing.assert_close(found[f"blk.2.attn_{part}.weight"].double(), expected, rtol=1e-5, atol=1e-9)
    assert len(found) == 4 * 7


@pytest.mark.parametrize("tool", [llama_rows.PLAIN, llama_rows.IMATRIX])
def test_files_hold_what_ggml_makes_of_each_row(tiny_llama, made, tool):
    shape = read_shape(tiny_llama)
    state = load_model(tiny_llama).state_dict()
    matrix = load_file(made / "importance.safetensors") if tool == llama_rows.IMATRIX else {}
    compared = 0
    for name, tensor, raw in packed_tensors(read_header(made / tool / "q4_0.gguf"), shape):
        if tensor.type_name == "q4_0":
            expected = ggml.quantize(state[name], "q4_0", matrix.get(tensor.name))
            assert raw.tobytes() == expected.numpy().tobytes(), name
            compared += 1
    assert compared == 4 * 7


def test_bytes_are_equal_and_the_records_say_what_was_done(made):
    plain, matrix = (
        llama_rows.tensor_facts(made / tool / "q4_0.gguf") for tool in (llama_rows.PLAIN, llama_rows.IMATRIX)
    )
    assert plain["tensor_bytes"] == matrix["tensor_bytes"]
    assert plain["tensors"] == matrix["tensors"]
    record = json.loads((made / llama_rows.IMATRIX / "q4_0.json").read_text())
    assert record["tokens"] == 0
    assert record["calibration_tokens"] % 512 == 0
    assert record["tool_command"] == "llama-quantize --imatrix --tensor-type, each as in plain rounding Q4_0"
    # Here llama.cpp's own types with an importance matrix are the plain ones, so its file isn't kept twice.
    assert not list((made / llama_rows.IMATRIX_TYPES).glob("*"))


def test_a_source_that_is_no_model_ends_with_llama_cpps_words(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(SystemExit, match=r"llama.cpp can't write out.gguf \(exit code"):
        llama_rows.quantize(tmp_path / "bad.gguf", tmp_path / "out.gguf", llama_rows.FILE_TYPES["q4_0"], None, {}, 1)
    assert not (tmp_path / "out.gguf").exists()


def test_the_finer_file_has_its_type_everywhere(made):
    """What q4_0 keeps in 8 bits is brought down, and everything has a bit more."""
    assert set(llama_rows.tensor_types(made / llama_rows.FINER / "q4_0.gguf").values()) == {llama_rows.FINER_TYPE}
    assert not (made / llama_rows.FINER / "q8_0.gguf").exists()


def test_judges_are_cut_to_their_tokens(tiny_llama, tmp_path):
    chats = [
        {"ids": list(range(3, 40)), "first": 20},
        {"ids": [3, 4, 5], "first": 2},
        {"ids": list(range(3, 90)), "first": 10},
    ]
    turns = [CORPUS[1], CORPUS[2], "And then?", CORPUS[0]]
    messages = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, turns, strict=True)]
    for text in judges.TEXTS:
        content = {"chats.json": json.dumps(chats), "dialogue.json": json.dumps([messages[:2], messages])}
        (tmp_path / text.file).write_text(content.get(text.file, TEXT), encoding="utf-8")
    found = judges.make_judges(tiny_llama, tmp_path, 700)
    by_name = {judge.name: judge for judge in found}
    assert [judge.tokens for judge in found][:2] == [700, 700]
    assert [document.kept for document in found[0].documents] == [511, 189]
    assert [document.positions.tolist() for document in by_name["held-out chats"].documents] == [
        list(range(20, 36)),
        list(range(10, 86)),
    ]
    # Of a conversation the last answer is judged, with its end of turn, and nothing that comes before it.
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    for document, last in zip(by_name["dialogue"].documents, (CORPUS[2], CORPUS[0]), strict=True):
        assert tokenizer.decode(document.labels) == f"{last}<|im_end|>\n"
    key = judges.judges_key(found, "weights")
    assert key == judges.judges_key(judges.make_judges(tiny_llama, tmp_path, 700), "weights")
    assert key != judges.judges_key(found, "others")
    assert key != judges.judges_key(judges.make_judges(tiny_llama, tmp_path, 699), "weights")
    # The reference says of a judged position what the float model says.
    reference = judges.reference_of(tiny_llama, found, key, tmp_path, QuietProgress())
    with torch.no_grad():
        expected = load_model(tiny_llama)(found[0].documents[0].tokens.long().unsqueeze(0)).logits[0, :511]
    torch.testing.assert_close(reference.view(0, 511).p, torch.softmax(expected, -1), rtol=1e-4, atol=1e-6)
    read = make_reference(tiny_llama, found, next(tmp_path.glob("reference-*")), "", QuietProgress())
    assert read.hidden.shape == (sum(judge.tokens for judge in found), 64)
