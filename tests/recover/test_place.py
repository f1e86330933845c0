"""A model on its grid computes with exactly the weights that the checkpoint taken off it holds."""

from pathlib import Path

import pytest
import torch

from edgedistill.errors import InputError
from edgedistill.formats import BF16, F16, F32, FORMATS
from edgedistill.mixes import assign_formats
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.quant.checkpoint import load_grid, save_grid
from edgedistill.quant.latent import Learned
from edgedistill.quant.rounded import round_weights
from edgedistill.recover.place import place_on_grid, take_off_grid

IDS = torch.arange(5, 45).view(2, 20)
LEARNED = [Learned(), Learned(scales=False), Learned(weights=False), Learned(low_rank=2)]


@pytest.mark.parametrize("mix", ["q4_0", "q8_0"])
@pytest.mark.parametrize("learned", LEARNED)
def test_training_saw_what_the_checkpoint_holds(tiny_llama: Path, tmp_path: Path, mix: str, learned: Learned):
    formats = assign_formats(read_facts(tiny_llama, "tiny").shape, mix)
    model = load_model(tiny_llama)
    rounded = round_weights(model.state_dict(), formats, mix)
    layers = place_on_grid(model, formats, None, learned)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        model(IDS).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        seen = model(IDS).logits
    save_grid(tmp_path, take_off_grid(model, layers, rounded, formats))
    checkpoint = load_grid(tmp_path)
    assert set(checkpoint.tensors) == set(formats)
    again = load_model(tiny_llama, weights={name: checkpoint.decode(name) for name in checkpoint.tensors})
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, seen)


def test_every_linear_layer_is_on_the_grid_and_the_embedding_frozen(tiny_llama: Path):
    model = load_model(tiny_llama)
    layers = place_on_grid(model, assign_formats(read_facts(tiny_llama, "tiny").shape, "q4_0"), None, Learned())
    assert len(layers) == 4 * 7
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("embed_tokens" in name or "lm_head" in name for name in trained)
    assert all(name.endswith((".latent", ".gain_d", "norm.weight")) for name in trained)


@pytest.mark.parametrize(
    ("learned", "names"),
    [
        (Learned(weights=False, norms=False), {"gain_d"}),
        (Learned(scales=False, norms=False), {"latent"}),
        (Learned(low_rank=4, scales=False), {"low_a", "low_b", "weight"}),
    ],
)
def test_only_what_is_asked_for_trains(tiny_llama: Path, learned: Learned, names: set[str]):
    model = load_model(tiny_llama)
    place_on_grid(model, assign_formats(read_facts(tiny_llama, "tiny").shape, "q4_0"), None, learned)
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} == names


def test_sixteen_bit_layers_stay_as_rounded_and_float32_ones_train(tiny_llama: Path, tmp_path: Path):
    formats = assign_formats(read_facts(tiny_llama, "tiny").shape, "q4_0")
    odd = {"q_proj": F16, "k_proj": BF16, "v_proj": F32, "embed_tokens": BF16}
    formats |= {name: odd[part] for name in formats for part in odd if f"{part}.weight" in name}
    model = load_model(tiny_llama)
    rounded = round_weights(model.state_dict(), formats, "odd")
    layers = place_on_grid(model, formats, None, Learned())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model(IDS).logits.square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        seen = model(IDS).logits
    save_grid(tmp_path, take_off_grid(model, layers, rounded, formats))
    checkpoint = load_grid(tmp_path)
    kinds = {name: tensor.dtype for name, tensor in checkpoint.tensors.items() if isinstance(tensor, torch.Tensor)}
    assert kinds["model.layers.0.self_attn.q_proj.weight"] == torch.float16
    assert kinds["model.layers.3.self_attn.k_proj.weight"] == kinds["model.embed_tokens.weight"] == torch.bfloat16
    value = checkpoint.tensors["model.layers.0.self_attn.v_proj.weight"]
    assert not torch.equal(value, load_model(tiny_llama).state_dict()["model.layers.0.self_attn.v_proj.weight"])
    again = load_model(tiny_llama, weights={name: checkpoint.decode(name) for name in checkpoint.tensors})
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, seen)


def test_a_value_that_float16_cant_hold_is_named():
    weights = {"a.weight": torch.full((2, 32), 1e5)}
    said = (
        r"a.weight: f16 can't hold the value 100000.0 at \[0, 0\]; float16 ends at 65504. Choose another mix, or "
        r"a sound model."
    )
    with pytest.raises(InputError, match=said):
        round_weights(weights, {"a.weight": F16}, "f16")


def test_what_is_rounded_stays_when_the_model_is_trained_on():
    weights = {"model.norm.weight": torch.ones(4), "a.weight": torch.ones(2, 32)}
    rounded = round_weights(weights, {"model.norm.weight": F32, "a.weight": FORMATS["q4_0"]}, "q4_0")
    for weight in weights.values():
        weight.mul_(2)
    assert torch.equal(rounded.tensors["model.norm.weight"], torch.ones(4))
    assert torch.equal(rounded.decode("a.weight"), torch.ones(2, 32))
