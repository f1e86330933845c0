"""What each weight's error costs: a float64 loop over tokens finds the same, and KL moves as it foretells."""

from pathlib import Path

import pytest
import torch

from edgedistill.losses.own_sample import OwnSample
from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.recover.fisher import FLOOR, load_fisher, measure_fisher
from edgedistill.recover.probe import kl_sum
from edgedistill.signals.shards import Document

NAMES = ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj", "model.layers.3.self_attn.o_proj"]


@pytest.fixture(scope="module")
def document() -> Document:
    return Document(torch.randint(3, 300, (40,), generator=torch.Generator().manual_seed(4), dtype=torch.int32), 0, {})


@pytest.fixture(scope="module")
def measured(tiny_llama: Path, document: Document, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("fisher")
    measure_fisher(tiny_llama, [document], 48, "float32", 9, folder, QuietProgress())
    return load_fisher(folder)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_sum_of_squared_gradients_times_squared_inputs(tiny_llama: Path, document: Document, measured, name: str):
    model = load_model(tiny_llama).double()
    seen = {}

    def keep(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        output.retain_grad()
        seen.update(x=inputs[0], y=output)

    model.get_submodule(name).register_forward_hook(keep)
    logits = model(document.tokens.long().unsqueeze(0)).logits[0, :-1]
    _, grad = OwnSample(9).loss_and_grad(logits.detach().float(), 0)
    labels = (torch.softmax(logits, -1) - grad).argmax(-1)
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    expected = torch.zeros(seen["y"].shape[-1], seen["x"].shape[-1], dtype=torch.float64)
    for x, g in zip(seen["x"][0].detach(), seen["y"].grad[0], strict=True):
        expected += torch.outer(g.square(), x.square())
    expected = (expected / expected.mean()).clamp_min(FLOOR)
    torch.testing.assert_close(measured[f"{name}.weight"].double(), expected, rtol=1e-2, atol=1e-6)  # it is kept in bfloat16


def test_weights_that_it_calls_dear_cost_more_kl(tiny_llama: Path, document: Document, measured):
    """The same squared error, on the dearest and on the cheapest hundredth of a matrix."""
    name = "model.layers.1.mlp.up_proj.weight"
    ids = document.tokens.long().unsqueeze(0)

    def kl_of(which: torch.Tensor) -> float:
        model = load_model(tiny_llama)
        with torch.no_grad():
            before = model(ids).logits[0]
            weight = model.get_parameter(name)
            noise = torch.randn(len(which), generator=torch.Generator().manual_seed(1))
            weight.view(-1)[which] += noise * weight.std() * 2
            return kl_sum(before, model(ids).logits[0])

    order = measured[name].flatten().float().argsort()
    count = len(order) // 100
    assert kl_of(order[-count:]) > 5 * kl_of(order[:count])
