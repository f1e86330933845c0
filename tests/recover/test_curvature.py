"""How KL curves: a float64 loop over tokens finds the same matrices, in parts or at once, and a fit by them loses less
KL.
"""

from pathlib import Path

import pytest
import torch

from edgedistill.data.example import Example, counted_from
from edgedistill.facts import EMBEDDING, HEAD
from edgedistill.losses.own_sample import OwnSample
from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.quant.fit import Curvature, expected_kl, fit_costs
from edgedistill.quant.latent import GridLinear, Learned
from edgedistill.recover.curvature import PARTS, CurvatureFiles, measure_curvature
from edgedistill.recover.probe import kl_sum
from edgedistill.recover.scores import ScoredText
from tests import tiny
from tests.recover.backward import inputs_and_gradients

NAMES = ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj", "model.layers.3.self_attn.o_proj"]


@pytest.fixture(scope="module")
def document() -> Example:
    return counted_from(torch.randint(3, 300, (40,), generator=torch.Generator().manual_seed(4), dtype=torch.int32))


def measure(model: Path, document: Example, folder: Path, **settings: int) -> CurvatureFiles:
    folder.mkdir(exist_ok=True)
    measure_curvature(model, ScoredText([document], 48, "float32", 9), folder, QuietProgress(), **settings)
    return CurvatureFiles(folder)


@pytest.fixture(scope="module")
def measured(tiny_llama: Path, document: Example, tmp_path_factory: pytest.TempPathFactory) -> CurvatureFiles:
    return measure(tiny_llama, document, tmp_path_factory.mktemp("curvature"))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_sum_of_outer_products_by_the_mean_of_squared_gradients(
    tiny_llama: Path, document: Example, measured, name: str
):
    inputs, gradients = inputs_and_gradients(tiny_llama, document, name, seed=9)
    expected = torch.zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64)
    for x, g in zip(inputs, gradients, strict=True):
        expected += g.square().mean() * torch.outer(x, x)
    mean = expected.diagonal().mean()
    found = measured[f"{name}.weight"]
    torch.testing.assert_close(found.matrix.double(), expected / mean, rtol=1e-3, atol=2e-3)  # kept in float16
    assert found.scale == pytest.approx(float(mean) / document.kept, rel=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tables_is_that_of_its_logits_and_of_its_tokens(tied: bool, document: Example, tmp_path: Path):
    folder = tiny.make_tiny_llama(tmp_path / "model", tied=tied)
    found = measure(folder, document, tmp_path / "curvature")
    model = load_model(folder).double()
    seen: dict[str, torch.Tensor] = {}

    def keep(_module: torch.nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        output.requires_grad_().retain_grad()
        seen.update(embedded=output)

    model.requires_grad_(False)
    model.get_input_embeddings().register_forward_hook(keep)
    model.model.norm.register_forward_hook(lambda _module, _inputs, output: seen.update(hidden=output.detach()))
    logits = model(document.tokens.long().unsqueeze(0)).logits[0, :-1]
    q, grad = torch.softmax(logits.detach(), -1), OwnSample(9).loss_and_grad(logits.detach().float(), 0)[1]
    torch.nn.functional.cross_entropy(logits, (q - grad).argmax(-1), reduction="sum").backward()
    head, embedding = (torch.zeros(found[EMBEDDING].matrix.shape, dtype=torch.float64) for _ in range(2))
    for h, p in zip(seen["hidden"][0], q, strict=False):
        head += (p * (1 - p)).sum() * torch.outer(h, h)
    for g in seen["embedded"].grad[0]:
        embedding += torch.outer(g, g)
    expected = {EMBEDDING: head + embedding} if tied else {EMBEDDING: embedding, HEAD: head}
    assert {name for name in found if name in (EMBEDDING, HEAD)} == set(expected)
    for name, matrix in expected.items():
        mean = matrix.diagonal().mean()
        torch.testing.assert_close(found[name].matrix.double(), matrix / mean, rtol=1e-3, atol=2e-3)
        assert found[name].scale == pytest.approx(
            float(mean) / (document.kept * len(model.get_input_embeddings().weight)), rel=1e-3
        )


def test_layers_measured_some_at_a_time_are_the_same(tiny_llama: Path, document: Example, measured, tmp_path: Path):
    parts = measure(tiny_llama, document, tmp_path / "parts", part_bytes=100_000)
    assert len(list((tmp_path / "parts").iterdir())) > 2
    assert set(parts) == set(measured)
    for name, curvature in measured.items():
        assert torch.equal(parts[name].matrix, curvature.matrix)


def test_a_part_that_is_there_is_not_measured_again(tiny_llama: Path, document: Example, tmp_path: Path):
    measure(tiny_llama, document, tmp_path / "run", part_bytes=100_000)
    first, second = (tmp_path / "run" / PARTS.format(number) for number in (0, 1))
    whole, kept = second.read_bytes(), first.stat().st_mtime_ns
    second.unlink()
    measure(tiny_llama, document, tmp_path / "run", part_bytes=100_000)
    assert first.stat().st_mtime_ns == kept
    assert second.read_bytes() == whole


@pytest.mark.parametrize("name", [f"{NAMES[1]}.weight", EMBEDDING])
def test_expected_kl_is_the_quadratic_form_of_the_errors(tiny_llama: Path, measured, name: str):
    weight, curvature = load_model(tiny_llama).state_dict()[name].float(), measured[name]
    fitted = fit_costs(weight, "q4_0", curvature)
    total = 0.0
    for error in (fitted.decode() - weight).double():
        total += float(error @ curvature.matrix.double() @ error)
    assert expected_kl(weight, fitted, curvature) == pytest.approx(0.5 * curvature.scale * total, rel=1e-4)


def test_expected_kl_of_the_output_matrix_is_what_a_small_change_costs(document: Example, tmp_path: Path):
    # Its rows are nearly apart and tokens don't meet in it, so here what is expected is what happens.
    folder = tiny.make_tiny_llama(tmp_path / "model", tied=False)
    curvature = measure(folder, document, tmp_path / "curvature")[HEAD]
    model, ids = load_model(folder), document.tokens.long().unsqueeze(0)
    weight = model.get_output_embeddings().weight
    fitted = fit_costs(weight.detach().clone(), "q5_0", curvature)
    with torch.no_grad():
        before = model(ids).logits[0, :-1]
        expected = expected_kl(weight, fitted, curvature)
        weight.copy_(fitted.decode())
        assert kl_sum(before, model(ids).logits[0, :-1]) / document.kept == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("grid", ["q4_0", "q5_0", "iq4_nl"])
def test_training_of_weights_starts_from_the_fitted_codes(tiny_llama: Path, measured, grid: str):
    name = "model.layers.1.mlp.up_proj.weight"
    weight = load_model(tiny_llama).state_dict()[name].float()
    curvature = measured[name]
    assert isinstance(curvature, Curvature)
    fitted = fit_costs(weight, grid, curvature)
    layer = GridLinear(weight, fitted, Learned())
    assert torch.equal(layer.encode().packed, fitted.packed)
    # A latent weight begins where no other code is near; one whose codes are the nearest anyway, at itself.
    assert torch.equal(layer.latent, fitted.decode())
    rounded = GridLinear(weight, fit_costs(weight, grid, None), Learned())
    assert (rounded.latent == weight).float().mean() > 0.98


@pytest.mark.parametrize("grid", ["q4_0", "q5_0"])
def test_a_whole_model_fitted_by_it_loses_less_kl(tiny_llama: Path, document: Example, measured, grid: str):
    ids = document.tokens.long().unsqueeze(0)

    def loss(curved: bool) -> float:
        model = load_model(tiny_llama)
        state = model.state_dict()
        with torch.no_grad():
            before = model(ids).logits[0]
            for name, curvature in measured.items():
                state[name].copy_(fit_costs(state[name].float().clone(), grid, curvature if curved else None).decode())
            return kl_sum(before, model(ids).logits[0])

    assert loss(curved=True) < 0.7 * loss(curved=False)
