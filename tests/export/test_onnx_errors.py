"""What the ONNX export refuses to write, and how it names a damaged export: one sentence each, nothing left behind."""

import contextlib
import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedistill.errors import InputError, RunError, VerifyError
from edgedistill.export.onnx.build import write_onnx
from edgedistill.export.onnx.check import compare_onnx, verify_onnx
from edgedistill.export.onnx.read import read_onnx
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.fit import fit_ggml
from edgedistill.quant.grids import GridTensor
from tests.export.test_onnx import METADATA, rounded

DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def case(tiny_llama):
    """(checkpoint, shape)."""
    return rounded(tiny_llama, "q4_0")


@pytest.fixture(scope="module")
def exported(case, tiny_llama, tmp_path_factory):
    return write_onnx(*case[:1], tiny_llama, case[1], tmp_path_factory.mktemp("onnx") / "out", METADATA)


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of the export that a test may damage, and the model in it."""
    shutil.copytree(exported, tmp_path / "copy")
    return tmp_path / "copy", tmp_path / "copy" / "onnx" / "model_q4.onnx"


def flip(path: Path, name: str, byte: int) -> None:
    """Change one byte of an initializer inside the file, which stays a valid protobuf."""
    raw = next(t.raw_data for t in onnx.load(path).graph.initializer if t.name == name)
    content = bytearray(path.read_bytes())
    at = content.index(raw[:64]) + byte
    content[at] ^= 0x10
    path.write_bytes(content)


def change(path: Path, edit) -> None:
    """Edit the protobuf."""
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())


def rename_input(model, node: str, value: str) -> None:
    """Wire a node's first input to another value."""
    next(n for n in model.graph.node if n.name == node).input[0] = value


def test_a_flipped_code_is_found_and_named(case, copy):
    checkpoint, _ = case
    folder, path = copy
    flip(path, f"{DOWN}.codes", 16 * 4 * 3 + 16 * 2 + 5)  # rows are 4 blocks of 16 bytes
    (difference,) = compare_onnx(checkpoint, folder).differences
    assert (difference.tensor, difference.row, difference.block) == (f"{DOWN}.weight", 3, 2)
    with pytest.raises(
        VerifyError, match=rf"differ from the checkpoint; the first is {DOWN}.weight, row 3, block 2: expected"
    ):
        compare_onnx(checkpoint, folder).require_equal("copy")


@pytest.mark.parametrize(
    ("name", "byte", "tensor", "row", "block"),
    [
        (
            "model.layers.2.self_attn.(q_proj|k_proj|v_proj).scales",
            2 * (2 * (64 + 5) + 1) + 1,
            "model.layers.2.self_attn.k_proj.weight",
            5,
            1,
        ),
        ("model.layers.2.mlp.(gate_proj|up_proj).codes", 32 * (128 + 7), "model.layers.2.mlp.up_proj.weight", 7, 0),
        ("model.embed_tokens.codes", 64 * 300 + 33, "model.embed_tokens.weight", 300, 1),
        ("model.norm.weight", 4 * 9 + 2, "model.norm.weight", 0, 9),
    ],
)
def test_a_flip_in_a_fused_or_tied_tensor_or_a_norm_is_named_too(case, copy, name, byte, tensor, row, block):
    folder, path = copy
    flip(path, name, byte)
    (difference,) = compare_onnx(case[0], folder).differences
    assert (difference.tensor, difference.row, difference.block) == (tensor, row, block)


def test_a_flip_under_a_scale_of_zero_is_found(tiny_llama, case, tmp_path):
    checkpoint, shape = case
    tensors = dict(checkpoint.tensors)
    tensor = tensors[f"{DOWN}.weight"]
    packed = tensor.packed.clone()
    packed[0, :2] = 0
    tensors[f"{DOWN}.weight"] = GridTensor("q4_0", packed)
    checkpoint = GridCheckpoint("q4_0", tensors)
    out = write_onnx(checkpoint, tiny_llama, shape, tmp_path / "out", METADATA)
    assert compare_onnx(checkpoint, out).equal
    flip(out / "onnx" / "model_q4.onnx", f"{DOWN}.codes", 3)
    assert [(d.tensor, d.row, d.block) for d in compare_onnx(checkpoint, out).differences] == [(f"{DOWN}.weight", 0, 0)]


def test_changed_angles_sizes_wiring_tokenizer_and_template_are_named(case, copy, tiny_llama):
    checkpoint, shape = case
    folder, path = copy
    whole = path.read_bytes()

    def edit_angle(model):
        tensor = next(t for t in model.graph.initializer if t.name == "sin_cache")
        values = np.frombuffer(tensor.raw_data, np.float32).copy()
        values[8 * 33 + 1] += 1e-4
        tensor.raw_data = values.tobytes()

    change(path, edit_angle)
    with pytest.raises(VerifyError, match="sin_cache differs from the model's rotary angles, first at position 33"):
        verify_onnx(checkpoint, tiny_llama, shape, folder)

    def edit_epsilon(model):
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = 1e-6

    path.write_bytes(whole)
    change(path, edit_epsilon)
    with pytest.raises(VerifyError, match=r"node \d+, model.layers.0.input_layernorm, isn't as the export writes it"):
        verify_onnx(checkpoint, tiny_llama, shape, folder)

    path.write_bytes(whole)
    change(path, lambda model: rename_input(model, "model.layers.1.mlp.sigmoid", "model.layers.1.mlp.up_proj.out"))
    with pytest.raises(VerifyError, match=r"node \d+, model.layers.1.mlp.sigmoid, isn't as the export writes it"):
        verify_onnx(checkpoint, tiny_llama, shape, folder)

    path.write_bytes(whole)
    flip(path, "masked", 1)
    with pytest.raises(VerifyError, match="constant masked isn't as the export writes it"):
        verify_onnx(checkpoint, tiny_llama, shape, folder)

    path.write_bytes(whole)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "other"}))
    with pytest.raises(VerifyError, match="tokenizer_config.json doesn't hold the checkpoint's chat template"):
        verify_onnx(checkpoint, tiny_llama, shape, folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(VerifyError, match="tokenizer.json isn't the checkpoint's"):
        verify_onnx(checkpoint, tiny_llama, shape, folder)


@pytest.mark.parametrize("kept", [0, 1, 1000, 0.5, 0.999, -1, -30, -120])
def test_a_cut_file_is_one_sentence(copy, kept):
    folder, path = copy
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match=r"model_q4.onnx: .*(cut|damaged)") as caught:
        list(read_onnx(folder))
    assert "\n" not in str(caught.value)


def test_any_changed_bytes_end_in_a_comparison_or_one_sentence(case, copy):
    checkpoint, _ = case
    folder, path = copy
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(60):
        content = bytearray(whole)
        for at in rng.integers(0, 12_000, 3):  # the head of the file: the nodes
            content[at] = rng.integers(0, 256)
        path.write_bytes(content)
        with contextlib.suppress(VerifyError):  # of tensors that now have other names or shapes
            try:
                compare_onnx(checkpoint, folder)
            except InputError as error:
                messages.append(str(error))
    assert len(messages) > 10
    assert all(message.isprintable() and len(message) < 700 for message in messages)


def add_zero_points(model):
    next(n for n in model.graph.node if n.name == DOWN).input.append("one")


def forget_scales(model):
    del next(n for n in model.graph.node if n.name == DOWN).input[2:]


def widen_bits(model):
    next(a for n in model.graph.node if n.name == DOWN for a in n.attribute if a.name == "bits").i = 5


def unequal_heads(model):
    next(a for n in model.graph.node for a in n.attribute if a.name == "num_heads").i = 5


def lie_about_rows(model):
    next(a for n in model.graph.node if n.name == DOWN for a in n.attribute if a.name == "N").i = 96


def shorten(model):
    tensor = next(t for t in model.graph.initializer if t.name == f"{DOWN}.codes")
    tensor.raw_data = tensor.raw_data[:-1]


def escape(model):
    tensor = next(t for t in model.graph.initializer if t.name == f"{DOWN}.codes")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../../../etc/passwd"), ("offset", "0"), ("length", "4096")):
        tensor.external_data.add(key=key, value=value)


def forget_schema(model):
    model.metadata_props.remove(next(p for p in model.metadata_props if p.key == "edgedistill.schema"))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (add_zero_points, f"has zero points at {DOWN} that aren't all the same"),
        (forget_scales, f"has 2 inputs at {DOWN}"),
        (widen_bits, f"has 5-bit blocks of 32 in {DOWN}"),
        (unequal_heads, r"has 128 rows in model.layers.0.self_attn.\(q_proj|k_proj|v_proj\), which don't part evenly"),
        (lie_about_rows, rf"has \[64, 128\] weights in {DOWN}, whose node says \[96, 128\]"),
        (shorten, rf"has 4095 bytes for {DOWN}.codes, uint8 \[64, 4, 16\]"),
        (escape, f"looks for {DOWN}.codes in .*passwd.*; it must be in model_q4.onnx_data"),
        (forget_schema, "its edgedistill.schema is missing, it must be edgedistill.onnx/2"),
    ],
)
def test_a_malformed_file_is_named(copy, edit, words):
    folder, path = copy
    change(path, edit)
    with pytest.raises(InputError, match=words):
        list(read_onnx(folder))


def test_a_missing_tensor_and_one_stored_otherwise_are_named(case, copy, tiny_llama, tmp_path):
    checkpoint, shape = case
    folder, path = copy
    change(path, lambda model: model.graph.node.remove(next(n for n in model.graph.node if n.name == DOWN)))
    with pytest.raises(VerifyError, match=f"lacks 1 of the checkpoint's 38 tensors, first {DOWN}.weight"):
        compare_onnx(checkpoint, folder)
    for other, found in (
        (fit_ggml, "8 bits, not as q4_0 is"),
        (lambda weight, grid: weight.half(), "f16, not as q4_0 is"),
    ):
        tensors = {**checkpoint.tensors, f"{DOWN}.weight": other(checkpoint.decode(f"{DOWN}.weight"), "q8_0")}
        out = write_onnx(GridCheckpoint("other", tensors), tiny_llama, shape, tmp_path / "other", METADATA)
        with pytest.raises(VerifyError, match=f"{DOWN}.weight is stored in {found}"):
            compare_onnx(checkpoint, out)
    with pytest.raises(VerifyError, match=f"{DOWN}.weight is stored in 4 bits, the checkpoint's is float16"):
        compare_onnx(
            GridCheckpoint("other", tensors), write_onnx(checkpoint, tiny_llama, shape, tmp_path / "mine", METADATA)
        )


def test_a_missing_or_short_data_file_is_named(tiny_llama, case, tmp_path, monkeypatch):
    monkeypatch.setattr("edgedistill.export.onnx.build.INSIDE_LIMIT_BYTES", 0)
    out = write_onnx(case[0], tiny_llama, case[1], tmp_path / "out", METADATA)
    data = out / "onnx" / "model_q4.onnx_data"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(InputError, match="past the end of model_q4.onnx_data"):
        list(read_onnx(out))
    data.unlink()
    with pytest.raises(InputError, match="model_q4.onnx_data: can't be read: No such file"):
        list(read_onnx(out))


def test_what_can_not_be_exported_is_named(tiny_llama, case, tmp_path):
    checkpoint, shape = case
    out = tmp_path / "out"

    def refuse(words, checkpoint=checkpoint, shape=shape, folder=tiny_llama, level=4):
        with pytest.raises(InputError, match=words):
            write_onnx(checkpoint, folder, shape, out, METADATA, level)
        assert not list(tmp_path.iterdir())

    refuse("model family 'gemma' has no ONNX export; supported are llama", shape=replace(shape, family="gemma"))
    refuse("accuracy_level is 2; it must be one of 0, 1, 4", level=2)
    refuse("heads are 12 wide; onnxruntime's attention takes multiples of 8", shape=replace(shape, head_dim=12))
    refuse(r"differ in 9 tensors, first model.layers.4.input_layernorm.weight", shape=shape.with_layers(5))
    refuse(
        r"mlp.gate_proj.weight is \[128, 64\] in the checkpoint, \[160, 64\] in the model's shape",
        shape=replace(shape, ffn=160),
    )
    refuse(
        r"config.json: its norm_eps is 1e-05, the checkpoint's 1e-06; they must be one model's",
        shape=replace(shape, norm_eps=1e-6),
    )
    refuse("has no config.json", folder=tmp_path)


def test_a_folder_with_a_broken_tokenizer_is_named(tiny_llama, case, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny_llama, source)
    (source / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="tokenizer.json: not valid JSON"):
        write_onnx(case[0], source, case[1], tmp_path / "out", METADATA)
    (source / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="tokenizer.json: can't be read: No such file"):
        write_onnx(case[0], source, case[1], tmp_path / "out", METADATA)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_folder_of_something_else_stays(tiny_llama, case, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(
        InputError, match="holds 'thesis.tex', which no ONNX export writes; choose an empty or a new folder"
    ):
        write_onnx(case[0], tiny_llama, case[1], tmp_path / "out", METADATA)
    with pytest.raises(InputError, match="thesis.tex is a file; an ONNX export is a folder"):
        write_onnx(case[0], tiny_llama, case[1], tmp_path / "out" / "thesis.tex", METADATA)


def test_a_full_disk_is_one_sentence_and_the_earlier_export_stays(tiny_llama, case, tmp_path, monkeypatch):
    checkpoint, shape = case
    out = write_onnx(checkpoint, tiny_llama, shape, tmp_path / "out", METADATA)
    before = (out / "onnx" / "model_q4.onnx").read_bytes()
    write_bytes = Path.write_bytes

    def full(path, content):
        if path.suffix == ".onnx":
            write_bytes(path, content[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        RunError, match=r"out: the ONNX export can't be written \(No space left on device\). Free some disk"
    ):
        write_onnx(checkpoint, tiny_llama, shape, tmp_path / "out", {"name": "second"})
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (out / "onnx" / "model_q4.onnx").read_bytes() == before


def test_the_earlier_export_comes_back_when_the_last_rename_fails(tiny_llama, case, tmp_path, monkeypatch):
    out = write_onnx(case[0], tiny_llama, case[1], tmp_path / "out", METADATA)
    rename = Path.rename

    def fail_once(path, target):
        if path.name == ".out.new":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(RunError, match="Input/output error"):
        write_onnx(case[0], tiny_llama, case[1], out, {"name": "second"})
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert compare_onnx(case[0], out).equal
