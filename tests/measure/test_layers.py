"""Errors by layer against a layer's real outputs, and against a file whose rows GGUF has in another order."""

import numpy as np
import pytest
import torch

from edgedistill.data.example import counted_from
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.export.weights import open_weights
from edgedistill.measure.layers import layer_errors, relative_error
from edgedistill.mixes import Mix, assign_formats
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.quant.rounded import round_weights
from edgedistill.teach.capture import CaptureSettings, capture, load_importance


def test_error_is_that_of_the_outputs_where_inputs_do_not_correlate():
    torch.manual_seed(0)
    layer, other = torch.nn.Linear(48, 3000, bias=False), torch.nn.Linear(48, 3000, bias=False)
    other.weight.data = layer.weight.data + 0.01 * torch.randn_like(layer.weight)
    inputs = torch.diag(torch.rand(48) + 0.1)[torch.randperm(48)]  # one at a time: no two of them correlate
    with torch.no_grad():
        expected = ((layer(inputs) - other(inputs)).norm() / layer(inputs).norm()).item()
    squares = inputs.square().mean(0).double().numpy()
    assert relative_error(layer.weight.detach().numpy(), other.weight.detach().numpy(), squares) == pytest.approx(
        expected, rel=1e-5
    )


def test_equal_matrices_have_none_and_nothing_is_relative_to_zero():
    ones, zeros = np.ones((5, 4), np.float32), np.zeros((5, 4), np.float32)
    assert relative_error(ones, ones, np.ones(4)) == 0.0
    assert relative_error(zeros, ones, np.ones(4)) is None
    assert relative_error(ones, zeros, np.ones(4)) == 1.0
    assert relative_error(ones, zeros, np.zeros(4)) is None


def test_a_files_errors_are_its_tensors_own(tiny_llama, tiny_gguf, tmp_path):
    """A float file has none at all, though GGUF has q and k in another order of rows; a rounded one has those of its
    outputs.
    """
    shape = read_facts(tiny_llama, "tiny").shape
    state = load_model(tiny_llama).state_dict()
    formats = assign_formats(shape, Mix("q4_0", "q4_0"))
    checkpoint = round_weights(state, formats, "q4_0")
    path = write_gguf(checkpoint, tiny_llama, shape, tmp_path / "q4_0.gguf", {"name": "tiny"})
    torch.manual_seed(0)
    text = [counted_from(torch.randint(3, 300, (60,), dtype=torch.int32)) for _ in range(4)]
    capture(tiny_llama, [("train", text)], CaptureSettings(64, "float32"), tmp_path, QuietProgress())
    squares = load_importance(tmp_path)
    files = {"rounded": open_weights(path).tensors, "recovered": open_weights(tiny_gguf).tensors}
    found = layer_errors(open_weights(tiny_llama).tensors, files, squares, QuietProgress())

    matrices = [tensor for tensor in shape.tensors() if not tensor.flat]
    assert [entry.tensor for entry in found] == [tensor.name for tensor in matrices]
    assert [entry.layer for entry in found] == [None] + [layer for layer in range(4) for _ in range(7)]
    assert {entry.recovered for entry in found} == {0.0}
    for entry, tensor in zip(found, matrices, strict=True):
        name = tensor.name
        assert (entry.grid, entry.weights) == (formats[name].name, tensor.size)
        inputs = squares[name].double().sqrt() if name in squares else torch.ones(tensor.cols).double()
        weight, rounded = state[name].double() * inputs, checkpoint.decode(name).double() * inputs
        assert entry.rounded == pytest.approx(((weight - rounded).norm() / weight.norm()).item(), rel=1e-5)
        assert entry.rounded > 0

    plain = layer_errors(open_weights(tiny_llama).tensors, {"rounded": files["rounded"]}, None, QuietProgress())
    assert {entry.recovered for entry in plain} == {None}
    q_proj = next(entry for entry in plain if entry.tensor.endswith("0.self_attn.q_proj.weight"))
    weight = state[q_proj.tensor].double()
    assert q_proj.rounded == pytest.approx(
        ((weight - checkpoint.decode(q_proj.tensor)).norm() / weight.norm()).item(), rel=1e-5
    )


def test_norms_of_a_family_that_adds_one_and_fused_matrices_are_read_too(tmp_path):
    from tests.tiny import make_tiny

    for family in ("gemma3_text", "phi3"):
        folder = make_tiny(family, tmp_path / family)
        shape = read_facts(folder, family).shape
        state = load_model(folder).state_dict()
        weights = {tensor.name: state[tensor.name] for tensor in shape.tensors()}
        path = write_gguf(
            float_checkpoint(weights, "f32"), folder, shape, tmp_path / f"{family}.gguf", {"name": family}
        )
        found = layer_errors(
            open_weights(folder).tensors, {"rounded": open_weights(path).tensors}, None, QuietProgress()
        )
        assert {entry.rounded for entry in found} == {0.0}
        assert len(found) == len([tensor for tensor in shape.tensors() if not tensor.flat])
