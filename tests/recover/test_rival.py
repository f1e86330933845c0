"""The teacher on grids in so many bytes: the choice against every possible one, and its file's size."""

import itertools
import json
from pathlib import Path

import gguf
import pytest
import torch

from edgedistill.export.exports import export_recovered
from edgedistill.facts import ModelShape
from edgedistill.formats import FORMATS
from edgedistill.mixes import Mix, Size, groups_of, least_bytes
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.progress import Progress
from edgedistill.quant.checkpoint import load_grid
from edgedistill.quant.fit import Curvature, expected_kl, fit_costs
from edgedistill.recover.rival import RivalInputs, fit_rival, sampled_table
from edgedistill.recover.sensitivity import QUICK_PASSES
from tests.tiny import make_tiny_llama


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("teacher"), layers=2)


def curvatures(shape: ModelShape) -> dict[str, Curvature]:
    """A random positive matrix for each weight, of a size of its own."""
    torch.manual_seed(1)
    found = {}
    for number, tensor in enumerate(t for t in shape.tensors() if not t.flat):
        root = torch.randn(tensor.cols, tensor.cols)
        matrix = root @ root.T
        found[tensor.name] = Curvature(matrix / matrix.diagonal().mean(), 10.0 ** -(number % 4))
    return found


def mix_of(size: int) -> Mix:
    return Mix("rival", "", size=Size(total_bytes=size), candidates=("q4_0", "q8_0"))


def test_the_choice_is_the_best_of_all_that_fit_in_the_bytes(teacher: Path, tmp_path: Path):
    shape = read_shape(teacher)
    costs, groups = curvatures(shape), groups_of(shape, mix_of(0))
    state = load_model(teacher).state_dict()
    table = sampled_table(state, groups, costs, Progress())
    least = least_bytes(shape, groups)
    allowed = least + 20_000
    fit_rival(RivalInputs(teacher, shape, costs, mix_of(allowed)), tmp_path, Progress())
    written = json.loads((tmp_path / "mix.json").read_text())
    best = None
    for choice in itertools.product(*(group.formats for group in groups)):
        size = least + sum(g.bytes_in(f) - g.bytes_in(g.formats[0]) for g, f in zip(groups, choice, strict=True))
        kl = sum(table[g.name][f.name] for g, f in zip(groups, choice, strict=True))
        if size <= allowed and (best is None or kl < best[0]):
            best = kl, size, {t.name: f.name for g, f in zip(groups, choice, strict=True) for t in g.tensors}
    assert best is not None
    assert written["predicted_kl"] == pytest.approx(best[0])
    assert written["grids"] == best[2]
    grid = load_grid(tmp_path)
    name, number_format = next(iter(best[2].items()))
    expected = fit_costs(state[name].float(), number_format, costs[name], QUICK_PASSES)
    assert torch.equal(grid.tensors[name].packed, expected.packed)
    (tmp_path / "file").mkdir()
    export_recovered("gguf", tmp_path, shape, tmp_path / "file", {}, 4)
    file = gguf.GGUFReader(tmp_path / "file" / "model.gguf")
    assert sum(int(tensor.n_bytes) for tensor in file.tensors) == best[1] <= allowed


def test_a_sample_of_rows_tells_what_all_of_them_cost(teacher: Path):
    shape = read_shape(teacher)
    costs, groups = curvatures(shape), groups_of(shape, mix_of(0))
    state = load_model(teacher).state_dict()
    table = sampled_table(state, groups, costs, Progress())
    for group in groups:
        for number_format in group.formats:
            whole = 0.0
            for tensor in group.tensors:
                weight, curvature = state[tensor.name].float(), costs[tensor.name]
                fitted = fit_costs(weight, number_format.name, curvature, QUICK_PASSES)
                whole += expected_kl(weight, fitted, curvature)
            assert table[group.name][number_format.name] == pytest.approx(whole, rel=0.25)
    assert FORMATS["q4_0"].block == 32
