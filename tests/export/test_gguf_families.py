"""Every family's GGUF file in llama.cpp against transformers' own model of the source folder: logits, weights, and the
way back.

The tiny models have what their family can have (tests/tiny.py, VARIANTS), and the text is longer than their windows.
llama.cpp is told to keep keys and values in float32; then its logits, of a spread of about 1.2, differ from
transformers' by some 2e-5, and for gemma3 by 3e-3, because it reads gelu from a table of float16. Every part of a
family that is held here moves them by 0.1.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from edgedistill import mixes
from edgedistill.errors import InputError
from edgedistill.export.compare import checkpoint_hash
from edgedistill.export.gguf.check import compare_gguf, verify_gguf
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.families import FAMILIES
from edgedistill.models.facts import read_facts
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model, save_model
from edgedistill.models.students.depth import cut_layers
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.fit import fit_ggml
from tests.tiny import VARIANTS, make_tiny

TOKENS = [int(token) for token in np.random.default_rng(0).integers(3, 400, 60)]
TOLERANCE, GELU_TOLERANCE = 1e-4, 1e-2  # of logits
SHOWS = 0.1


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: make_tiny(family, root / family) for family in FAMILIES}


def reference(folder: Path, **changes: object) -> PreTrainedModel:
    """transformers' own model of a folder, its config changed."""
    config = AutoConfig.from_pretrained(folder)
    for key, value in changes.items():
        setattr(config, key, value)
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: PreTrainedModel) -> np.ndarray:
    """[T, V] of TOKENS."""
    return model(torch.tensor([TOKENS])).logits[0].numpy()


def float_weights(folder: Path) -> dict[str, torch.Tensor]:
    state = load_model(folder).state_dict()
    return {tensor.name: state[tensor.name] for tensor in read_shape(folder).tensors()}


def write_float(folder: Path, out: Path) -> Path:
    return write_gguf(float_checkpoint(float_weights(folder), "f32"), folder, read_shape(folder), out, {"name": "Tiny"})


def hold(found: np.ndarray, expected: np.ndarray, family: str) -> None:
    """The logits are the same but for rounding, and so is the likeliest token wherever it leads by more than that."""
    tolerance = GELU_TOLERANCE if FAMILIES[family].activation == "gelu_tanh" else TOLERANCE
    assert np.abs(found - expected).max() < tolerance
    leading = np.sort(expected, axis=1)
    clear = leading[:, -1] - leading[:, -2] > 2 * tolerance
    assert clear.mean() > 0.7
    assert (found.argmax(1) == expected.argmax(1))[clear].all()


def test_there_is_a_tiny_model_of_every_family():
    assert VARIANTS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_gives_transformers_logits(family, folders, tmp_path, ask_llama):
    folder = folders[family]
    path = write_float(folder, tmp_path / "model.gguf")
    expected = logits(reference(folder))
    hold(ask_llama(path, TOKENS, float_cache=True).logits, expected, family)
    # And back: the weights are the very same, and so is what transformers makes of them.
    assert np.array_equal(logits(load_model(path)), expected)
    facts = read_facts(path, "tiny")
    assert (facts.shape.parameters, facts.kind) == (read_shape(folder).parameters, "gguf")


# What each family has beside a plain llama, turned off or set to another family's value: transformers' logits must then
# be others by far, or the test above would not see that part go wrong.
PARTS = [
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}),
    ("qwen2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 4.0}}),
    ("qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    ("gemma3_text", {"sliding_window": 256}),
    ("gemma3_text", {"layer_types": ["sliding_attention"] * 7}),
    ("gemma3_text", {"query_pre_attn_scalar": 16}),
    ("gemma3_text", {"hidden_activation": "silu"}),
    ("phi3", {"rope_parameters": {**VARIANTS["phi3"]["rope_parameters"], "short_factor": [1.0] * 6}}),
    ("phi3", {"rope_parameters": {**VARIANTS["phi3"]["rope_parameters"], "attention_factor": 1.0}}),
    ("smollm3", {"no_rope_layers": [1] * 5}),
    ("smollm3", {"no_rope_layers": [0] * 5}),
    ("granite", {"embedding_multiplier": 1.0}),
    ("granite", {"residual_multiplier": 1.0}),
    ("granite", {"attention_multiplier": 0.25}),
    ("granite", {"logits_scaling": 1.0}),
]


@pytest.mark.parametrize(
    ("family", "changes"), PARTS, ids=[f"{family} {' '.join(changes)}" for family, changes in PARTS]
)
def test_each_part_of_a_family_shows_in_the_logits(family, changes, folders):
    folder = folders[family]
    assert np.abs(logits(reference(folder, **changes)) - logits(reference(folder))).max() > SHOWS


@pytest.mark.parametrize("family", ["gemma3_text", "granite", "llama", "olmo2", "qwen2", "qwen3"])
def test_each_norm_and_bias_shows_in_the_logits(family, folders):
    model = reference(folders[family])
    before = logits(model)
    for name, parameter in model.model.layers[1].named_parameters():
        if parameter.ndim == 1 and not name.endswith("k_proj.bias"):  # softmax takes most of a key's bias away again
            kept = parameter.detach().clone()
            parameter.data.zero_()
            assert np.abs(logits(model) - before).max() > SHOWS, name
            parameter.data.copy_(kept)


@pytest.mark.parametrize("mix", ["f32", "q8_0", "q4_0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_holds_the_checkpoint_bit_for_bit(family, mix, folders, tmp_path):
    folder, shape = folders[family], read_shape(folders[family])
    weights = float_weights(folder)
    checkpoint = float_checkpoint(weights, "f32")
    if mix != "f32":
        formats = mixes.assign_formats(shape, mix)
        rounded = {
            name: fit_ggml(value, formats[name].name) if formats[name].quantized else value
            for name, value in weights.items()
        }
        checkpoint = GridCheckpoint(mix, rounded)
    path = write_gguf(checkpoint, folder, shape, tmp_path / "model.gguf", {})
    compared = verify_gguf(checkpoint, folder, shape, path)
    assert compared.equal
    assert compared.tensors == len(weights)
    assert compared.sha256 == checkpoint_hash(checkpoint, shape.norm_offset)
    one = float(shape.norm_offset)  # of a norm that adds 1, the last bits of w are gone, but never from 1 + w
    assert (load_model(path).state_dict()["model.norm.weight"] + one).equal(weights["model.norm.weight"] + one)


def test_a_norm_that_adds_one_is_stored_as_the_sum(folders, tmp_path):
    folder = folders["gemma3_text"]
    path = write_float(folder, tmp_path / "model.gguf")
    weights = float_weights(folder)
    name = "model.layers.2.self_attn.k_norm.weight"
    weights[name] = weights[name].clone()
    weights[name][5] += 2**-20
    changed = compare_gguf(float_checkpoint(weights, "f32"), path)
    assert [(d.tensor, d.block) for d in changed.differences] == [(name, 5)]
    assert changed.differences[0].expected == float(1 + weights[name][5])


def test_a_mistral_is_read_up_to_its_window(tmp_path, ask_llama):
    folder = make_tiny("mistral", tmp_path / "model", sliding_window=48)
    assert (read_shape(folder).context, read_shape(folder).window) == (48, None)
    path = write_float(folder, tmp_path / "model.gguf")
    expected = logits(reference(folder))
    found = ask_llama(path, TOKENS, float_cache=True).logits
    hold(found[:48], expected[:48], "mistral")
    assert np.abs(found - expected)[48:].max() > SHOWS


def test_a_gemma_with_another_pattern_of_windows(tmp_path, ask_llama):
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    folder = make_tiny("gemma3_text", tmp_path / "model", num_hidden_layers=4, layer_types=kinds)
    path = write_float(folder, tmp_path / "model.gguf")
    hold(ask_llama(path, TOKENS, float_cache=True).logits, logits(reference(folder)), "gemma3_text")
    assert read_facts(path, "tiny").shape.windowed == read_shape(folder).windowed == (False, True, True, False)


@pytest.mark.parametrize(("family", "keep"), [("gemma3_text", [0, 1, 2, 6]), ("smollm3", [0, 2, 4]), ("phi3", [0, 2])])
def test_a_student_cut_by_depth_runs_as_transformers_has_it(family, keep, folders, tmp_path, ask_llama):
    student = cut_layers(load_model(folders[family]), keep)
    save_model(student, folders[family], tmp_path / "student")
    assert read_shape(tmp_path / "student") == read_shape(folders[family]).with_layers(len(keep))
    path = write_float(tmp_path / "student", tmp_path / "model.gguf")
    hold(ask_llama(path, TOKENS, float_cache=True).logits, logits(reference(tmp_path / "student")), family)


def test_a_smollm3_student_with_a_layer_out_of_place_is_refused(folders, tmp_path):
    save_model(cut_layers(load_model(folders["smollm3"]), [0, 2]), folders["smollm3"], tmp_path / "fine")
    with pytest.raises(
        InputError, match="no_rope_layers leaves the rotary embedding out of other layers than every 4th"
    ):
        save_model(cut_layers(load_model(folders["smollm3"]), [0, 3]), folders["smollm3"], tmp_path / "student")


def test_saved_configs_are_read_alike_by_old_and_new_names(folders, tmp_path):
    for family, folder in folders.items():
        save_model(load_model(folder), folder, tmp_path / family)
        shape = read_shape(folder)
        assert read_shape(tmp_path / family) == shape, family
        assert np.array_equal(logits(reference(tmp_path / family)), logits(reference(folder))), family
        path = tmp_path / family / "config.json"
        config = json.loads(path.read_text())
        del config["rope_parameters"]
        path.write_text(json.dumps(config))
        assert read_shape(tmp_path / family) == shape, family


def test_a_shape_that_differs_from_the_file_is_named(folders, tmp_path):
    folder = folders["granite"]
    checkpoint, shape = float_checkpoint(float_weights(folder), "f32"), read_shape(folder)
    path = write_gguf(checkpoint, folder, shape, tmp_path / "model.gguf", {})
    for changes in ({"logit_scale": 0.5}, {"residual_scale": 0.61}, {"mlp_bias": False}):
        field = next(iter(changes))
        with pytest.raises(Exception, match=f"its shape differs from the checkpoint's in {field}"):
            verify_gguf(checkpoint, folder, replace(shape, **changes), path)
