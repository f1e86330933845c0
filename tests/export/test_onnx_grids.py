"""Every grid in an ONNX file: onnxruntime's kernels give the decoded weights bit for bit, one file may hold several,
and it reads back.
"""

import json

import numpy as np
import onnx
import pytest
import torch

from edgedistill.errors import InputError, VerifyError
from edgedistill.export.compare import checkpoint_hash
from edgedistill.export.onnx.blocks import pack, unpack
from edgedistill.export.onnx.build import write_onnx
from edgedistill.export.onnx.check import compare_onnx, verify_onnx
from edgedistill.export.onnx.file import OnnxFile
from edgedistill.export.onnx.read import read_weights
from edgedistill.formats import FORMATS
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GRIDS, GridTensor
from tests.export.onnx_session import Session, matrices, table
from tests.tiny import make_tiny_llama

PLAIN = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
TOKENS = np.random.default_rng(0).integers(3, 400, (1, 24))


def any_codes(grid, rows, cols, seed):
    """A tensor on a grid with every code that its bytes can hold, those included that no encoder writes, and small
    scales.
    """
    generator = torch.Generator().manual_seed(seed)
    bytes_a_row = cols // FORMATS[grid].block * FORMATS[grid].block_bytes
    parts = GridTensor(grid, torch.randint(0, 256, (rows, bytes_a_row), generator=generator, dtype=torch.uint8)).parts()
    d = torch.randn(parts.d.shape, generator=generator) * 0.02
    if parts.d.dtype == torch.uint8:
        sizes = {"d": torch.randint(120, 126, parts.d.shape, generator=generator, dtype=torch.uint8)}
    elif parts.scales is None:
        sizes = {"d": (d / 4).half()}
    else:
        sizes = {"d": (d / 60).half()}
    if parts.m is not None:
        sizes["m"] = (d.flip(0) / (60 if parts.mins is not None else 1)).half()
    return GridTensor.of(grid, type(parts)(**{**vars(parts), **sizes}))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "wide"
    return make_tiny_llama(folder, width=256, ffn=512, layers=1, heads=4, kv_heads=2, tied=False, seed=5)


def checkpoint_on(source, grid_of):
    """The source's shape with each matrix on the grid that `grid_of(name)` gives."""
    shape = read_shape(source)
    state = load_model(source).state_dict()
    tensors = {}
    for index, tensor in enumerate(shape.tensors()):
        grid = "f32" if tensor.flat else grid_of(tensor.name)
        tensors[tensor.name] = (
            state[tensor.name].to(PLAIN[grid]) if grid in PLAIN else any_codes(grid, tensor.rows, tensor.cols, index)
        )
    return GridCheckpoint("mine", tensors), shape


def bits(values):
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


def expected_rows(checkpoint, name):
    """What a matrix of the graph must hold: the tensors in its name, one below another."""
    room, _, names = name.rpartition(".")
    return np.concatenate(
        [checkpoint.decode(f"{room}.{part}.weight".lstrip(".")).numpy() for part in names.strip("()").split("|")]
    )


@pytest.mark.parametrize("grid", [*GRIDS, *PLAIN])
def test_kernels_give_the_decoded_weights_bit_for_bit(grid, source, tmp_path):
    checkpoint, shape = checkpoint_on(source, lambda name: grid)
    out = write_onnx(checkpoint, source, shape, tmp_path / "out", {}, accuracy_level=0)
    found = dict(matrices(out))
    assert len(found) == 5  # q|k|v, o, gate|up, down, head
    for name, weights in found.items():
        expected = expected_rows(checkpoint, name)
        # A zero has no sign here: the identity's other products are added to it.
        np.testing.assert_array_equal(weights, expected, err_msg=name)
    embedding = checkpoint.decode("model.embed_tokens.weight").numpy()
    np.testing.assert_array_equal(table(out, shape.vocab), embedding)
    compared = verify_onnx(checkpoint, source, shape, out)
    assert compared.equal
    assert compared.sha256 == checkpoint_hash(checkpoint)


@pytest.mark.parametrize("grid", GRIDS)
def test_unpacked_blocks_are_the_checkpoints_to_the_sign_of_zero(grid):
    tensor = any_codes(grid, 7, 512, seed=1)
    np.testing.assert_array_equal(bits(unpack(pack(tensor))), bits(tensor.decode().numpy()))
    assert sum(array.nbytes for array in pack(tensor).arrays) * 8 / (7 * 512) == FORMATS[grid].onnx_bits


MIXED = {
    "q_proj": "q4_0",
    "k_proj": "q4_0",
    "v_proj": "q5_0",
    "o_proj": "q4_1",
    "gate_proj": "iq4_nl",
    "up_proj": "q4_1",
    "down_proj": "f16",
    "embed_tokens": "q4_1",
    "lm_head": "q8_0",
}


def test_one_file_holds_several_grids(source, tmp_path):
    checkpoint, shape = checkpoint_on(source, lambda name: MIXED[name.split(".")[-2]])
    out = write_onnx(checkpoint, source, shape, tmp_path / "out", {}, accuracy_level=0)
    assert {name.removeprefix("model.layers.0.") for name, _ in matrices(out)} == {
        "self_attn.(q_proj|k_proj)",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
        "lm_head",
    }
    assert verify_onnx(checkpoint, source, shape, out).equal
    model = load_model(source, weights={name: checkpoint.decode(name) for name in checkpoint.tensors})
    with torch.inference_mode():
        expected = model(torch.from_numpy(TOKENS)).logits.numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(Session(out)(TOKENS)[0], expected, atol=1e-4, rtol=0)
    formats = {weight.name.split(".")[-2]: weight.format for weight in read_weights(OnnxFile(out))}
    assert (formats["down_proj"], formats["q_proj"], formats["v_proj"], formats["norm"]) == (
        "f16",
        "4 bits",
        "8 bits",
        "f32",
    )


@pytest.mark.parametrize("grid", ["q4_1", "q8_0", "f16"])
def test_a_tied_table_serves_both_ends(grid, tmp_path):
    source = make_tiny_llama(tmp_path / "tied", width=64, layers=1)
    checkpoint, shape = checkpoint_on(source, lambda name: grid)
    out = write_onnx(checkpoint, source, shape, tmp_path / "out", {}, accuracy_level=0)
    head = dict(matrices(out))["lm_head"]
    np.testing.assert_array_equal(head, checkpoint.decode("model.embed_tokens.weight").numpy())
    np.testing.assert_array_equal(table(out, shape.vocab), head)
    assert sum(weight.name == "model.embed_tokens.weight" for weight in read_weights(OnnxFile(out))) == 1
    assert compare_onnx(checkpoint, out).equal


@pytest.mark.parametrize(
    ("grid", "name"), [("q4_0", "model_q4.onnx"), ("q5_0", "model_quantized.onnx"), ("bf16", "model.onnx")]
)
def test_the_file_is_called_by_the_width_of_most_linear_weights(grid, name, source, tmp_path):
    checkpoint, shape = checkpoint_on(source, lambda tensor: "q8_0" if "embed" in tensor or "head" in tensor else grid)
    out = write_onnx(checkpoint, source, shape, tmp_path / "out", {})
    assert [path.name for path in (out / "onnx").iterdir()] == [name]
    assert json.loads((out / "genai_config.json").read_text())["model"]["decoder"]["filename"] == f"onnx/{name}"


@pytest.mark.parametrize("grid", GRIDS)
def test_the_kernels_of_int8_activations_hold_the_same_weights(grid, source, tmp_path):
    """Level 4, which ships, takes other kernels. Eight bits hold an identity's ones almost exactly."""
    checkpoint, shape = checkpoint_on(source, lambda name: grid)
    out = write_onnx(checkpoint, source, shape, tmp_path / "out", {}, accuracy_level=4)
    for name, weights in matrices(out):
        expected = expected_rows(checkpoint, name)
        np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-6 * np.abs(expected).max(), err_msg=name)


def flip(path, name, byte):
    """Change one bit of a stored tensor."""
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    raw = bytearray(tensor.raw_data)
    raw[byte] ^= 1
    tensor.raw_data = bytes(raw)
    path.write_bytes(model.SerializeToString())


ATTENTION = "model.layers.0.self_attn"


@pytest.mark.parametrize(
    ("name", "byte", "tensor", "row", "block"),
    [
        # q4_k: rows of one block; 8 integers a row beside a float16
        (f"{ATTENTION}.(q_proj|k_proj|v_proj).group_scales", 8 * (256 + 3) + 5, "k_proj", 3, 0),
        (f"{ATTENTION}.(q_proj|k_proj|v_proj).group_offsets", 8 * (256 + 128 + 2), "v_proj", 2, 0),
        (f"{ATTENTION}.(q_proj|k_proj|v_proj).offsets", 2 * 7, "q_proj", 7, 0),
        (f"{ATTENTION}.o_proj.codes", 128 * 9 + 1, "o_proj", 9, 0),
    ],
)
def test_a_flip_in_any_number_of_a_block_is_named(name, byte, tensor, row, block, source, tmp_path):
    checkpoint, shape = checkpoint_on(source, lambda module: "q4_k")
    out = write_onnx(checkpoint, source, shape, tmp_path / "out", {})
    (path,) = (out / "onnx").iterdir()
    flip(path, name, byte)
    (difference,) = compare_onnx(checkpoint, out).differences
    assert (difference.tensor, difference.row, difference.block) == (f"{ATTENTION}.{tensor}.weight", row, block)


def swap_sign(model):
    next(node for node in model.graph.node if node.name == f"{ATTENTION}.o_proj.shifted").op_type = "Add"


def other_center(model):
    tensor = next(t for t in model.graph.initializer if t.name == "center_8")
    tensor.raw_data = np.array([7.5], np.float32).tobytes()


def other_scales(model):
    node = next(node for node in model.graph.node if node.name == f"{ATTENTION}.o_proj.centers")
    node.input[0] = next(n for n in model.graph.node if n.name == f"{ATTENTION}.o_proj.shift").input[1]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (swap_sign, "has Add at .*o_proj.shifted, which doesn't go with its offsets"),
        (other_center, "has 7.5 scales added at"),
        (other_scales, "has other scales in the sums of .*o_proj than in its product"),
    ],
)
def test_offsets_that_are_wired_otherwise_are_named(edit, words, source, tmp_path):
    checkpoint, shape = checkpoint_on(source, lambda module: "q4_k")
    out = write_onnx(checkpoint, source, shape, tmp_path / "out", {})
    (path,) = (out / "onnx").iterdir()
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=words):
        compare_onnx(checkpoint, out)


def test_other_steps_around_the_middle_are_other_weights(source, tmp_path):
    """The middle is a number of the file: one that was changed gives other weights, which the comparison sees."""
    checkpoint, shape = checkpoint_on(source, lambda module: "q4_1")
    out = write_onnx(checkpoint, source, shape, tmp_path / "out", {})
    (path,) = (out / "onnx").iterdir()
    model = onnx.load(path)
    next(t for t in model.graph.initializer if t.name == "center_8").raw_data = np.array([9], np.float32).tobytes()
    path.write_bytes(model.SerializeToString())
    with pytest.raises(VerifyError, match="not as q4_1 is; export it again"):
        compare_onnx(checkpoint, out)
