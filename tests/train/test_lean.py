"""What the lean layers compute and give back is what transformers' own do, and they keep less."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModelForCausalLM

from edgedistill.data.example import counted_from
from edgedistill.data.packing import make_batch
from edgedistill.formats import FORMATS
from edgedistill.quant.latent import Learned
from edgedistill.recover.place import place_on_grid
from edgedistill.train import forward
from edgedistill.train.forward import kept_hidden
from tests.train.test_forward import CASES, SIZES


def model_of(family):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **CASES[family])).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(std=0.3).add_(0.0 if family == "gemma3_text" else 1.0)
    return model


def batch_of():
    return make_batch([[counted_from(torch.arange(3, 3 + n) % 97) for n in (20, 9)]], seq_len=32)


def outcome(model, dtype):
    """The hidden states and, by parameter, a gradient that no symmetry makes zero."""
    model.zero_grad()
    hidden = kept_hidden(model, batch_of(), dtype)
    (hidden.float() * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    return hidden, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def as_transformers(monkeypatch):
    def switch():
        monkeypatch.setattr(forward, "lean", forward.by_document)

    return switch


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("on_grid", [False, True], ids=["float", "grid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_values_and_gradients_are_those_of_transformers(family, on_grid, dtype, as_transformers):
    model = model_of(family)
    if on_grid:
        linear = {
            f"{name}.weight"
            for name, m in model.named_modules()
            if isinstance(m, torch.nn.Linear) and name != "lm_head"
        }
        place_on_grid(model, dict.fromkeys(linear, FORMATS["q8_0"]), None, Learned())
    found, gradients = outcome(model, dtype)
    as_transformers()
    expected, their_gradients = outcome(model, dtype)
    assert torch.equal(found, expected)
    assert gradients.keys() == their_gradients.keys()
    if dtype == torch.float32:
        for name, grad in gradients.items():
            theirs = their_gradients[name]
            torch.testing.assert_close(grad, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())
        return
    # Where gradients of several products meet, ours are summed in bfloat16: as near to the exact ones all the same.
    _, exact = outcome(model, torch.float32)
    ours, theirs = (
        sum((some[name] - grad).square().sum() for name, grad in exact.items()) for some in (gradients, their_gradients)
    )
    assert ours < 1.5**2 * theirs


def kept_bytes(model):
    """What one forward pass keeps for backward, without the parameters."""
    own = {p.data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = kept_hidden(model, batch_of(), torch.bfloat16)
    assert hidden.requires_grad
    return sum(size for size, _ in kept.values())


def test_less_is_kept(as_transformers):
    model = model_of("llama")
    lean = kept_bytes(model)
    as_transformers()
    assert lean < 0.7 * kept_bytes(model)


def test_transformers_forward_is_back_afterwards():
    model = model_of("llama")
    kept_hidden(model, batch_of(), torch.float32)
    assert not any("forward" in vars(module) for module in model.modules())
