"""Every family's ONNX file in onnxruntime against transformers on the decoded weights: prompt, cache, padding, every
weight.

The tiny models have what their family can have (tests/tiny.py, VARIANTS), and the text is longer than their windows.
With float activations the logits, of a spread of about 1.2, differ from transformers' by some 1e-5; every part of a
family that is held here moves them by far more.
"""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from edgedistill.errors import InputError, VerifyError
from edgedistill.export.compare import checkpoint_hash
from edgedistill.export.onnx.build import write_onnx
from edgedistill.export.onnx.check import compare_onnx, verify_onnx
from edgedistill.export.onnx.read import read_onnx
from edgedistill.families import FAMILIES
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.fit import fit_ggml
from tests.export.onnx_session import Session, graph_of
from tests.tiny import make_tiny

TOKENS = np.random.default_rng(0).integers(3, 400, (1, 60))
TOLERANCE = 1e-4  # of logits
SHOWS = 0.1
MIXED = {
    "q_proj": "q4_0",
    "k_proj": "q4_0",
    "v_proj": "q8_0",
    "o_proj": "q4_1",
    "qkv_proj": "q5_1",
    "gate_proj": "q5_0",
    "up_proj": "q4_1",
    "gate_up_proj": "q4_1",
    "down_proj": "iq4_nl",
    "embed_tokens": "q4_1",
    "lm_head": "q8_0",
}


def on_grids(folder, grid_of):
    """The folder's weights, each matrix on the grid of its module."""
    shape = read_shape(folder)
    state = load_model(folder).state_dict()
    tensors = {
        t.name: state[t.name] if t.flat else fit_ggml(state[t.name], grid_of(t.name.split(".")[-2]))
        for t in shape.tensors()
    }
    return GridCheckpoint("mine", tensors), shape


def reference(folder, checkpoint):
    return load_model(folder, weights={name: checkpoint.decode(name) for name in checkpoint.tensors})


def expected_logits(folder, checkpoint, ids, **asked):
    with torch.inference_mode():
        return reference(folder, checkpoint)(torch.from_numpy(np.asarray(ids)), **asked).logits.numpy()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {family: make_tiny(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="module", params=[f"{family} {mix}" for family in FAMILIES for mix in ("q8_0", "mixed")])
def case(request, folders, tmp_path_factory):
    """(folder, checkpoint, shape, export at accuracy level 0)."""
    family, mix = request.param.split()
    folder = folders[family]
    checkpoint, shape = on_grids(folder, (lambda module: "q8_0") if mix == "q8_0" else MIXED.__getitem__)
    return (
        folder,
        checkpoint,
        shape,
        write_onnx(checkpoint, folder, shape, tmp_path_factory.mktemp("onnx") / "out", {}, accuracy_level=0),
    )


def test_logits_are_those_of_transformers_at_once_and_with_the_cache(case):
    folder, checkpoint, _, out = case
    expected = expected_logits(folder, checkpoint, TOKENS)
    session = Session(out)
    whole, cache = session(TOKENS)
    np.testing.assert_allclose(whole, expected, atol=TOLERANCE, rtol=0)
    rows, past = [], None
    for part in np.split(TOKENS, [25, 26, 27, 40, 41], axis=1):  # prompt, tokens, more of a prompt, a token, more
        logits, past = session(part, past=past)
        rows.append(logits)
    np.testing.assert_allclose(np.concatenate(rows, 1), expected, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(past[0], cache[0], atol=TOLERANCE)


def test_a_batch_padded_on_the_left_is_transformers(case):
    folder, checkpoint, _, out = case
    short, long = TOKENS[:, :29], TOKENS[:, 25:57]
    ids = np.concatenate([np.pad(short, ((0, 0), (3, 0)), constant_values=2), long])
    mask = np.ones_like(ids)
    mask[0, :3] = 0
    session = Session(out)
    logits, past = session(ids, mask)
    np.testing.assert_allclose(logits[0, 3:], expected_logits(folder, checkpoint, short)[0], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(logits[1], expected_logits(folder, checkpoint, long)[0], atol=TOLERANCE, rtol=0)
    mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
    following, _ = session(np.array([[7], [9]]), mask, past)
    for row, tokens in enumerate((np.append(short, [[7]], 1), np.append(long, [[9]], 1))):
        np.testing.assert_allclose(
            following[row, 0], expected_logits(folder, checkpoint, tokens)[0, -1], atol=TOLERANCE, rtol=0
        )


def test_weights_are_the_checkpoints_bit_for_bit(case):
    folder, checkpoint, shape, out = case
    compared = verify_onnx(checkpoint, folder, shape, out)
    assert compared.equal
    assert compared.tensors == len(list(shape.tensors()))
    assert compared.sha256 == checkpoint_hash(checkpoint, shape.norm_offset) == compare_onnx(checkpoint, out).sha256
    assert set(dict(read_onnx(out))) == {tensor.name for tensor in shape.tensors()}


def test_the_exports_config_is_the_models(case):
    _, _, shape, out = case
    assert read_shape(out) == shape


PARTS_OF = {
    "gemma3_text": [
        {"window": 8},
        {"local_rope_theta": 500.0},
        {"embedding_scale": 1.0},
        {"activation": "silu"},
        {"attention_scale": 0.3},
    ],
    "granite": [{"embedding_scale": 1.0}, {"residual_scale": 1.0}, {"attention_scale": 0.9}, {"logit_scale": 1.0}],
    "smollm3": [{"no_rope": None}],
    "llama": [{"rope_scaling": None}],
    "qwen2": [{"rope_scaling": None}],
    "qwen3": [{"rope_scaling": None}, {"norm_eps": 0.5}],
    "phi3": [{"rope_scaling": None}],
    "olmo2": [{"norm_eps": 0.5}],
    "mistral": [{"rope_theta": 500.0}],
}


@pytest.mark.parametrize(
    ("family", "change"), [(family, change) for family, changes in PARTS_OF.items() for change in changes]
)
def test_every_part_of_a_family_shows_and_verify_names_its_lack(family, change, folders, tmp_path, monkeypatch):
    """The graph of a model that lacks one part gives other logits, and isn't taken for the model's."""
    folder = folders[family]
    checkpoint, shape = on_grids(folder, lambda module: "q8_0")
    monkeypatch.setattr("edgedistill.export.onnx.companions.require_shape", lambda folder, shape: None)
    out = write_onnx(checkpoint, folder, replace(shape, **change), tmp_path / "out", {}, accuracy_level=0)
    assert np.abs(Session(out)(TOKENS)[0] - expected_logits(folder, checkpoint, TOKENS)).max() > SHOWS
    with pytest.raises(
        VerifyError, match="isn't as the export writes it|differs from the model's rotary angles|the export writes"
    ):
        verify_onnx(checkpoint, folder, shape, out)


@pytest.mark.parametrize(
    ("attribute", "bias", "holds"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_a_window_holds_by_the_operator_and_by_the_bias_alone(attribute, bias, holds, folders, tmp_path):
    """onnxruntime below 1.24 counts the operator's window one token longer; the bias makes up for it."""
    checkpoint, shape = on_grids(folders["gemma3_text"], lambda module: "q8_0")
    out = write_onnx(checkpoint, folders["gemma3_text"], shape, tmp_path / "out", {}, accuracy_level=0)
    (path,) = (out / "onnx").iterdir()
    model = onnx.load(path)
    windows = [node for node in model.graph.node if "window_bias" in node.input]
    assert len(windows) == sum(shape.layer_kind(index)[0] for index in range(shape.layers)) == 6
    for node in windows:
        (window,) = [a for a in node.attribute if a.name == "local_window_size"]
        assert window.i == shape.window
        if not attribute:
            node.attribute.remove(window)
        if not bias:
            node.input[10] = "attention_bias"
    path.write_bytes(model.SerializeToString())
    difference = np.abs(Session(out)(TOKENS)[0] - expected_logits(folders["gemma3_text"], checkpoint, TOKENS)).max()
    assert difference < TOLERANCE if holds else difference > SHOWS


def test_biases_and_norms_show(folders, tmp_path):
    """A bias or norm that were left out would be seen: each tensor moves the logits."""
    for family, names in (
        ("llama", ("q_proj.bias", "o_proj.bias", "down_proj.bias")),
        ("qwen2", ("v_proj.bias",)),
        ("gemma3_text", ("q_norm.weight", "post_feedforward_layernorm.weight")),
        ("olmo2", ("k_norm.weight",)),
    ):
        checkpoint, _ = on_grids(folders[family], lambda module: "q8_0")
        expected = expected_logits(folders[family], checkpoint, TOKENS)
        for ending in names:
            (name, *_) = [name for name in checkpoint.tensors if name.endswith(ending)]
            other = GridCheckpoint("mine", {**checkpoint.tensors, name: torch.zeros_like(checkpoint.tensors[name])})
            assert np.abs(expected_logits(folders[family], other, TOKENS) - expected).max() > SHOWS, name


@pytest.mark.parametrize(
    ("head_dim", "rotated_by"), [(16, "GroupQueryAttention"), (24, "RotaryEmbedding"), (8, "RotaryEmbedding")]
)
def test_heads_that_the_attention_cannot_rotate_are_rotated_before_it(head_dim, rotated_by, tmp_path):
    folder = make_tiny("qwen3", tmp_path / "model", head_dim=head_dim)
    checkpoint, shape = on_grids(folder, lambda module: "q8_0")
    out = write_onnx(checkpoint, folder, shape, tmp_path / "out", {}, accuracy_level=0)
    ops = {node.op_type for node in graph_of(out).node}
    assert ("RotaryEmbedding" in ops) == (rotated_by == "RotaryEmbedding")
    session = Session(out)
    expected = expected_logits(folder, checkpoint, TOKENS)
    first, past = session(TOKENS[:, :30])
    rest, _ = session(TOKENS[:, 30:], past=past)
    np.testing.assert_allclose(np.concatenate([first, rest], 1), expected, atol=TOLERANCE, rtol=0)


def test_heads_that_onnxruntime_does_not_take_are_refused(tmp_path):
    folder = make_tiny("qwen3", tmp_path / "model", head_dim=20)
    shape, state = read_shape(folder), load_model(folder).state_dict()
    checkpoint = GridCheckpoint("f32", {tensor.name: state[tensor.name] for tensor in shape.tensors()})
    words = "heads are 20 wide; onnxruntime's attention takes multiples of 8. Export it as GGUF, which takes any"
    with pytest.raises(InputError, match=words):
        write_onnx(checkpoint, folder, shape, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def test_a_context_cut_short_leaves_the_rope_scaling_alone(tmp_path, monkeypatch):
    """yarn and longrope take what their parameters leave out from the context; the exported config says it all."""
    monkeypatch.setattr("edgedistill.export.onnx.build.MAX_POSITIONS", 100)
    for family in ("qwen2", "phi3"):
        folder = make_tiny(family, tmp_path / family)
        checkpoint, shape = on_grids(folder, lambda module: "q8_0")
        out = write_onnx(checkpoint, folder, shape, tmp_path / f"{family}-out", {}, accuracy_level=0)
        assert json.loads((out / "config.json").read_text())["max_position_embeddings"] == 100
        assert read_shape(out) == replace(shape, context=100)
        np.testing.assert_allclose(
            Session(out)(TOKENS)[0], expected_logits(folder, checkpoint, TOKENS), atol=TOLERANCE, rtol=0
        )


@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
def test_a_gemma_whose_layers_are_all_of_one_kind(kind, tmp_path):
    """As one of fewer layers than its pattern has: transformers then has no angles of the other kind."""
    folder = make_tiny("gemma3_text", tmp_path / "model", num_hidden_layers=2, layer_types=[kind] * 2)
    checkpoint, shape = on_grids(folder, lambda module: "q8_0")
    out = write_onnx(checkpoint, folder, shape, tmp_path / "out", {}, accuracy_level=0)
    assert verify_onnx(checkpoint, folder, shape, out).equal
    expected = expected_logits(folder, checkpoint, TOKENS)
    np.testing.assert_allclose(Session(out)(TOKENS)[0], expected, atol=TOLERANCE, rtol=0)
