"""What each weight's error costs: a float64 loop over tokens finds the same, and KL moves as it foretells."""

from pathlib import Path

import pytest
import torch

from edgedistill.data.example import Example, counted_from
from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.recover.fisher import FLOOR, load_fisher, measure_fisher
from edgedistill.recover.probe import kl_sum
from edgedistill.recover.scores import ScoredText
from tests.recover.backward import inputs_and_gradients

NAMES = ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj", "model.layers.3.self_attn.o_proj"]


@pytest.fixture(scope="module")
def document() -> Example:
    return counted_from(torch.randint(3, 300, (40,), generator=torch.Generator().manual_seed(4), dtype=torch.int32))


@pytest.fixture(scope="module")
def measured(tiny_llama: Path, document: Example, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("fisher")
    measure_fisher(tiny_llama, ScoredText([document], 48, "float32", 9), folder, QuietProgress())
    return load_fisher(folder)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_sum_of_squared_gradients_times_squared_inputs(
    tiny_llama: Path, document: Example, measured, name: str
):
    inputs, gradients = inputs_and_gradients(tiny_llama, document, name, seed=9)
    expected = torch.zeros(gradients.shape[1], inputs.shape[1], dtype=torch.float64)
    for x, g in zip(inputs, gradients, strict=True):
        expected += torch.outer(g.square(), x.square())
    expected = (expected / expected.mean()).clamp_min(FLOOR)
    torch.testing.assert_close(
        measured[f"{name}.weight"].double(), expected, rtol=1e-2, atol=1e-6
    )  # it is kept in bfloat16


def test_weights_that_it_calls_dear_cost_more_kl(tiny_llama: Path, document: Example, measured):
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
