"""A model on its grid computes with exactly the weights that the checkpoint taken off it holds."""

from pathlib import Path

import pytest
import torch

from edgedistill.mixes import assign_formats
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.quant.checkpoint import load_grid, save_grid
from edgedistill.quant.rounded import round_weights
from edgedistill.recover.place import place_on_grid, take_off_grid

IDS = torch.arange(5, 45).view(2, 20)


@pytest.mark.parametrize("mix", ["q4_0", "q8_0"])
@pytest.mark.parametrize("train", ["weights+scales", "weights", "scales"])
def test_training_saw_what_the_checkpoint_holds(tiny_llama: Path, tmp_path: Path, mix: str, train: str):
    formats = assign_formats(read_facts(tiny_llama, "tiny").shape, mix)
    model = load_model(tiny_llama)
    rounded = round_weights(model.state_dict(), formats, mix)
    layers = place_on_grid(model, formats, None, train)
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
    layers = place_on_grid(model, assign_formats(read_facts(tiny_llama, "tiny").shape, "q4_0"), None, "weights+scales")
    assert len(layers) == 4 * 7
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("embed_tokens" in name or "lm_head" in name for name in trained)
    assert all(name.endswith((".latent", ".gain_d", "norm.weight")) for name in trained)
