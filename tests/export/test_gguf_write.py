"""GGUF files as llama.cpp sees them: same logits as torch on the decoded weights, same bytes as gguf's own
quantizer.
"""

import errno
import json
import shutil

import gguf
import numpy as np
import pytest
import torch

from edgedistill import mixes
from edgedistill.errors import InputError, RunError, VerifyError
from edgedistill.export.compare import checkpoint_hash
from edgedistill.export.gguf.check import check_token_ids, compare_gguf, verify_gguf
from edgedistill.export.gguf.read import read_gguf
from edgedistill.export.gguf.write import float_checkpoint, pad_vocabulary, write_gguf
from edgedistill.models.facts import read_facts
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_names import gguf_names
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.models.tokenizer import TEST_TEXTS, load_tokenizer
from edgedistill.models.vocabulary import UNUSED, read_vocabulary
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.fit import fit_ggml
from tests.tiny import make_tiny_llama

TOKENS = [5, 17, 300, 42, 9, 77, 150, 3, 260, 31, 11, 200, 201, 202, 44, 8]
METADATA = {
    "name": "Tiny",
    "license": "apache-2.0",
    "author": "tests",
    "teacher": "random",
    "run": "0123abcd",
    "layers": 4,
}


def round_to(folder, mix: str) -> GridCheckpoint:
    """The folder's weights rounded to a mix, as plain rounding would ship them."""
    model, shape = load_model(folder), read_shape(folder)
    tensors = {t.name: model.state_dict()[t.name] for t in shape.tensors()}
    if mix in ("f32", "f16", "bf16"):
        return float_checkpoint(tensors, mix)
    formats = mixes.assign_formats(shape, mix)
    return GridCheckpoint(
        mix, {n: fit_ggml(t, formats[n].name) if formats[n].quantized else t for n, t in tensors.items()}
    )


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    return make_tiny_llama(
        tmp_path_factory.mktemp("untied") / "model", layers=2, heads=4, kv_heads=4, tied=False, seed=3
    )


def write(folder, checkpoint, out):
    return write_gguf(checkpoint, folder, read_shape(folder), out, METADATA)


# llama.cpp keeps its cache in f16 and rounds activations to 8 bits for quantized weights, to bfloat16 for those; logits
# reach about 8.
@pytest.mark.parametrize(
    ("mix", "tolerance"), [("f32", 0.02), ("f16", 0.02), ("bf16", 0.1), ("q8_0", 0.25), ("q4_0", 0.25)]
)
@pytest.mark.parametrize("which", ["tied, grouped heads", "untied"])
def test_llama_cpp_agrees_with_torch_on_the_decoded_weights(
    which, mix, tolerance, tiny_llama, untied, tmp_path, ask_llama
):
    folder = untied if which == "untied" else tiny_llama
    checkpoint = round_to(folder, mix)
    path = write(folder, checkpoint, tmp_path / "model.gguf")
    answer = ask_llama(path, TOKENS, TEST_TEXTS)
    model = load_model(folder, weights={name: checkpoint.decode(name) for name in checkpoint.tensors})
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    assert np.abs(expected).max() > 2
    assert np.abs(answer.logits - expected).max() < tolerance
    tokenizer = load_tokenizer(folder)
    assert answer.ids == [tokenizer(text)["input_ids"] for text in TEST_TEXTS]
    assert (answer.eos, answer.chat_template) == (tokenizer.eos_token_id, tokenizer.chat_template)


@pytest.mark.parametrize("mix", ["f16", "bf16"])
def test_sixteen_bits_are_read_back_by_gguf_as_they_were(mix, tiny_llama, tmp_path):
    checkpoint = round_to(tiny_llama, mix)
    path = write(tiny_llama, checkpoint, tmp_path / "model.gguf")
    tensor = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}["blk.1.ffn_gate.weight"]
    assert tensor.tensor_type.name.lower() == mix
    found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    assert np.array_equal(found, checkpoint.decode("model.layers.1.mlp.gate_proj.weight").numpy())


@pytest.mark.parametrize("mix", ["q8_0", "q4_0"])
def test_bytes_are_those_of_ggufs_own_quantizer(mix, tiny_llama, tmp_path):
    checkpoint = round_to(tiny_llama, mix)
    path = write(tiny_llama, checkpoint, tmp_path / "model.gguf")
    weights = load_model(tiny_llama).state_dict()
    formats = mixes.assign_formats(read_shape(tiny_llama), mix)
    names = gguf_names(read_shape(tiny_llama))
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, number_format in formats.items():
        weight = weights[name].numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp's converter: LlamaModel.permute
            heads = 4 if "q_proj" in name else 2
            weight = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)
        expected = gguf.quants.quantize(weight, gguf.GGMLQuantizationType(number_format.ggml_type))
        tensor = found.pop(names[name])
        assert tensor.tensor_type == number_format.ggml_type
        assert np.asarray(tensor.data).tobytes() == expected.tobytes(), name
    assert not found


def test_the_same_arguments_give_the_same_bytes(tiny_llama, tmp_path):
    checkpoint = round_to(tiny_llama, "q4_0")
    first, second = (write(tiny_llama, checkpoint, tmp_path / name).read_bytes() for name in ("a.gguf", "b.gguf"))
    assert first == second


def test_metadata_says_where_the_model_is_from(tiny_llama, tmp_path):
    path = write(tiny_llama, round_to(tiny_llama, "q8_0"), tmp_path / "model.gguf")
    found = {
        key: field.contents()
        for key, field in gguf.GGUFReader(path).fields.items()
        if not key.startswith("tokenizer.ggml.")
    }
    assert (found["general.name"], found["general.license"], found["general.author"]) == ("Tiny", "apache-2.0", "tests")
    facts = read_facts(path, str(path))
    assert (found["edgedistill.teacher"], found["edgedistill.run"], found["edgedistill.layers"]) == (
        "random",
        "0123abcd",
        4,
    )
    assert (found["edgedistill.mix"], found["general.file_type"], found["llama.vocab_size"]) == (
        "q8_0",
        7,
        facts.shape.vocab,
    )
    assert (facts.shape, facts.license) == (read_shape(tiny_llama), "apache-2.0")


@pytest.mark.parametrize("mix", ["f32", "f16", "q8_0", "q4_0"])
def test_the_file_holds_the_checkpoint(mix, tiny_llama, tmp_path):
    checkpoint = round_to(tiny_llama, mix)
    path = write(tiny_llama, checkpoint, tmp_path / "model.gguf")
    compared = verify_gguf(checkpoint, tiny_llama, read_shape(tiny_llama), path)
    assert compared.equal
    assert compared.sha256 == checkpoint_hash(checkpoint)
    for name, _, _, values in read_gguf(path):
        assert np.array_equal(values, checkpoint.decode(name).numpy())


def test_ids_are_checked_against_llama_cpp(tiny_llama, tmp_path):
    path = write(tiny_llama, round_to(tiny_llama, "q8_0"), tmp_path / "model.gguf")
    assert check_token_ids(tiny_llama, path) > 500
    other = shutil.copytree(tiny_llama, tmp_path / "other")
    data = json.loads((other / "tokenizer.json").read_text())
    data["model"]["merges"] = data["model"]["merges"][:-50]
    (other / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(VerifyError, match="llama.cpp splits '.*' otherwise than the folder's tokenizer: from token"):
        check_token_ids(other, path)


FLIPPED = ("model.layers.2.self_attn.k_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight")


@pytest.mark.parametrize("name", FLIPPED)
def test_one_flipped_byte_is_found_and_named(name, tiny_llama, tmp_path):
    checkpoint = round_to(tiny_llama, "q4_0")
    path = write(tiny_llama, checkpoint, tmp_path / "model.gguf")
    tensor = read_header(path).tensors[gguf_names(read_shape(tiny_llama))[name]]
    block_bytes, blocks = (34, 2) if "embed" in name else (18, 4 if "down" in name else 2)
    data = bytearray(path.read_bytes())
    data[tensor.offset + (5 * blocks + 1) * block_bytes + 7] ^= 0x10  # row 5 of the file, block 1
    path.write_bytes(data)
    (difference,) = compare_gguf(checkpoint, path).differences
    row = 5 if "k_proj" not in name else 10  # rows of a head are interleaved: file row 5 is 2·2 + 1, half 1, pair 2
    assert (difference.tensor, difference.row, difference.block) == (name, row, 1)
    assert difference.expected != difference.found
    with pytest.raises(VerifyError, match=f"1 of 38 tensors differ .* {name}, row {row}, block 1"):
        verify_gguf(checkpoint, tiny_llama, read_shape(tiny_llama), path)


def test_a_changed_code_in_a_block_of_zeros_is_found(tiny_llama, tmp_path):
    checkpoint = round_to(tiny_llama, "q8_0")
    name = "model.layers.0.mlp.up_proj.weight"
    checkpoint.tensors[name] = fit_ggml(torch.zeros(128, 64), "q8_0")
    path = write(tiny_llama, checkpoint, tmp_path / "model.gguf")
    data = bytearray(path.read_bytes())
    data[read_header(path).tensors[gguf_names(read_shape(tiny_llama))[name]].offset + 10] = 3
    path.write_bytes(data)
    (difference,) = compare_gguf(checkpoint, path).differences
    assert (difference.tensor, difference.row, difference.block, difference.expected, difference.found) == (
        name,
        0,
        0,
        0.0,
        0.0,
    )


def test_a_changed_tokenizer_or_shape_is_named(tiny_llama, tmp_path):
    checkpoint, shape = round_to(tiny_llama, "q8_0"), read_shape(tiny_llama)
    path = write(tiny_llama, checkpoint, tmp_path / "model.gguf")
    other = shutil.copytree(tiny_llama, tmp_path / "other")
    (other / "chat_template.jinja").write_text("changed")
    with pytest.raises(
        VerifyError, match="its tokenizer differs from the checkpoint's in chat_template: expected 'changed'"
    ):
        verify_gguf(checkpoint, other, shape, path)
    renamed = path.read_bytes().replace(b"<|im_end|>", b"<|im_enX|>", 1)
    path.write_bytes(renamed)
    with pytest.raises(VerifyError, match="its tokenizer differs from the checkpoint's in tokens"):
        verify_gguf(checkpoint, tiny_llama, shape, path)


def test_rope_scaling_travels(untied, tmp_path, ask_llama):
    for scaling in (
        {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        {"rope_type": "linear", "factor": 2.0},
    ):
        folder = shutil.copytree(untied, tmp_path / scaling["rope_type"])
        config = json.loads((folder / "config.json").read_text())
        config["rope_parameters"] = {"rope_theta": 10000.0, **scaling}
        (folder / "config.json").write_text(json.dumps(config))
        checkpoint = round_to(folder, "f32")
        path = write(folder, checkpoint, tmp_path / "model.gguf")
        assert verify_gguf(checkpoint, folder, read_shape(folder), path).equal
        tokens = TOKENS * 4
        plain = load_model(untied)(torch.tensor([tokens])).logits[0].detach().numpy()
        expected = load_model(folder)(torch.tensor([tokens])).logits[0].detach().numpy()
        found = ask_llama(path, tokens).logits
        assert np.abs(found - expected).max() < 0.02
        assert np.abs(plain - expected).max() > 0.2  # so the scaling was seen at all


def test_rows_without_a_token_get_placeholders(tmp_path, ask_llama):
    folder = make_tiny_llama(tmp_path / "model", layers=1)
    config = json.loads((folder / "config.json").read_text())
    tokens = config["vocab_size"]
    config["vocab_size"] += 32
    (folder / "config.json").write_text(json.dumps(config))
    shape = read_shape(folder)
    torch.manual_seed(0)
    sizes = {t.name: (t.cols,) if t.kind == "norm" else (t.rows, t.cols) for t in shape.tensors()}
    checkpoint = float_checkpoint({name: torch.randn(size) * 0.1 for name, size in sizes.items()}, "f16")
    path = write_gguf(checkpoint, folder, shape, tmp_path / "model.gguf", {})
    assert verify_gguf(checkpoint, folder, shape, path).equal
    vocabulary = read_vocabulary(path)
    assert vocabulary.tokens[tokens:] == tuple(f"[PAD{index}]" for index in range(tokens, tokens + 32))
    assert set(vocabulary.types[tokens:]) == {UNUSED}
    assert ask_llama(path, TOKENS).logits.shape == (len(TOKENS), tokens + 32)


def test_what_cannot_be_written_is_said(tiny_llama, tmp_path):
    checkpoint, shape = round_to(tiny_llama, "q8_0"), read_shape(tiny_llama)
    with pytest.raises(InputError, match=r"tokenizer has \d+ tokens, the embedding 300 rows"):
        pad_vocabulary(read_vocabulary(tiny_llama), 300, tiny_llama)
    endless = shutil.copytree(tiny_llama, tmp_path / "endless")
    config = json.loads((endless / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (endless / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="names no eos_token, so generation would never end"):
        write_gguf(checkpoint, endless, shape, tmp_path / "x.gguf", {})
    with pytest.raises(ValueError, match="differ in 9 tensors, first model.layers.4.input_layernorm.weight"):
        write_gguf(checkpoint, tiny_llama, shape.with_layers(5), tmp_path / "x.gguf", {})
    with pytest.raises(InputError, match="float16 ends at 65504"):
        float_checkpoint({"a": torch.full((1, 2), 70000.0)}, "f16")
    assert not list(tmp_path.glob("*x.gguf*"))


def test_a_full_disk_leaves_no_file(tiny_llama, tmp_path, monkeypatch):
    checkpoint, shape = round_to(tiny_llama, "q8_0"), read_shape(tiny_llama)
    out = tmp_path / "out" / "model.gguf"
    out.parent.mkdir()
    out.write_text("the old file")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(RunError, match=r"model.gguf: it can't be written \(No space left on device\). Free some disk"):
        write_gguf(checkpoint, tiny_llama, shape, out, {})
    assert [p.name for p in out.parent.iterdir()] == ["model.gguf"]
    assert out.read_text() == "the old file"
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(RunError, match=r"needs \d+ bytes, the disk has 1000 free"):
        write_gguf(checkpoint, tiny_llama, shape, out, {})
    assert [p.name for p in out.parent.iterdir()] == ["model.gguf"]
