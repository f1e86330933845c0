"""What grids cost: measured as a plain loop over transformers' logits measures it, kept through a kill, and worth
choosing by.
"""

import json
from dataclasses import replace
from pathlib import Path
from statistics import correlation

import pytest
import torch
from torch import Tensor

from edgedistill.data.example import Example, counted_from
from edgedistill.facts import EMBEDDING, HEAD, ModelShape
from edgedistill.mixes import CANDIDATES, Mix, Size, assign_formats, fit_groups, groups_of, mix_bytes, size_bytes
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.quant.fit import expected_kl, fit_costs, fit_ggml, fit_importance
from edgedistill.recover.choose import choose_grids, fit_mix
from edgedistill.recover.curvature import CurvatureFiles, measure_curvature
from edgedistill.recover.probe import Probe, kl_sum
from edgedistill.recover.scores import ScoredText
from edgedistill.recover.sensitivity import LINES, QUICK_PASSES, FitInputs, measure_sensitivity, read_table
from tests import tiny
from tests.kills import Killed

MIX = Mix("fitted", "", size=Size(bits_per_weight=6.5), candidates=("q4_0", "q8_0"))
SEQ_LEN = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_tiny_llama(tmp_path_factory.mktemp("models") / "untied", layers=3, tied=False, seed=3)


@pytest.fixture(scope="module")
def shape(folder: Path) -> ModelShape:
    return read_facts(folder, "tiny").shape


@pytest.fixture(scope="module")
def documents() -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    lengths = ((40, 0), (30, 7), (17, 3))
    return [
        counted_from(torch.randint(3, 300, (n,), generator=generator, dtype=torch.int32), first) for n, first in lengths
    ]


@pytest.fixture(scope="module")
def importance(folder: Path) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = load_model(folder).state_dict()
    return {
        name: torch.rand(weight.shape[1], generator=generator) for name, weight in state.items() if weight.ndim == 2
    }


def loop_kl(folder: Path, swapped: dict[str, Tensor], documents: list[Example]) -> float:
    """Mean KL in float64, a document at a time, from whole models' logits."""
    plain, other = load_model(folder), load_model(folder)
    with torch.no_grad():
        for name, weight in swapped.items():
            other.get_parameter(name).copy_(weight)
        total, count = 0.0, 0
        for document in documents:
            ids = document.tokens.long().unsqueeze(0)
            p, q = (
                torch.log_softmax(model(ids).logits[0, document.positions].double(), -1) for model in (plain, other)
            )
            total += float((p.exp() * (p - q)).sum())
            count += len(p)
    return total / count


@pytest.mark.parametrize(
    "names",
    [
        ["model.layers.1.self_attn.v_proj.weight"],
        ["model.layers.0.mlp.down_proj.weight", "model.layers.2.self_attn.q_proj.weight"],
        ["model.layers.2.mlp.gate_proj.weight", "model.layers.2.mlp.up_proj.weight"],
        [EMBEDDING],
        [HEAD],
        [EMBEDDING, HEAD, "model.layers.1.self_attn.o_proj.weight"],
    ],
)
@pytest.mark.parametrize("fit", ["importance", "ggml"])
def test_a_groups_kl_is_that_of_whole_models(
    names: list[str], fit: str, folder: Path, documents: list[Example], importance: dict[str, Tensor]
):
    probe = Probe(folder, documents, SEQ_LEN, importance if fit == "importance" else None)
    state = load_model(folder).state_dict()
    swapped = {}
    for name in names:
        weighed = fit == "importance" and "proj" in name
        swapped[name] = (
            fit_importance(state[name], "q4_0", importance[name]) if weighed else fit_ggml(state[name], "q4_0")
        ).decode()
    expected = loop_kl(folder, swapped, documents)
    assert expected > 1e-5
    assert probe.tokens == sum(document.kept for document in documents)
    for _ in range(2):  # the weights are put back
        assert probe.kl(dict.fromkeys(names, "q4_0")) == pytest.approx(expected, rel=2e-3)
    assert probe.kl({}) < 1e-12  # not 0: matrices of other sizes are summed in another order


def test_a_tied_table_is_swapped_in_both_its_places(tiny_llama: Path, documents: list[Example]):
    table = fit_ggml(load_model(tiny_llama).state_dict()[EMBEDDING], "q4_0").decode()
    assert Probe(tiny_llama, documents, SEQ_LEN, None).kl({EMBEDDING: "q4_0"}) == pytest.approx(
        loop_kl(tiny_llama, {EMBEDDING: table}, documents), rel=2e-3
    )


@pytest.mark.parametrize("far", [1e-4, 0.1, 3.0, 50.0, 200.0])
def test_kl_keeps_its_digits_near_and_far(far: float):
    generator = torch.Generator().manual_seed(2)
    reference, noise = (torch.randn(5, 400, generator=generator) * 4 for _ in range(2))
    other = reference + far * noise
    p, q = torch.log_softmax(reference.double(), -1), torch.log_softmax(other.double(), -1)
    assert kl_sum(reference.clone(), other) == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3)
    assert kl_sum(reference, reference) == 0


def test_a_killed_run_measures_nothing_twice(
    folder: Path,
    shape: ModelShape,
    documents: list[Example],
    importance: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    groups = groups_of(shape, MIX)
    asked: list[str] = []
    kl = Probe.kl
    monkeypatch.setattr(Probe, "kl", lambda self, grids, *how: asked.append(str(grids)) or kl(self, grids, *how))
    (whole, killed) = (tmp_path / "whole", tmp_path / "killed")
    whole.mkdir(), killed.mkdir()
    measure_sensitivity(FitInputs(folder, documents, importance, SEQ_LEN), groups, whole, QuietProgress())
    total = len(asked)
    assert total == 2 * len(groups) == 2 * (3 * 5 + 2)
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(FitInputs(folder, documents, importance, SEQ_LEN), groups, killed, Killed(9))
    kept = (killed / LINES).read_bytes()
    assert kept.count(b"\n") == len(asked) == 10
    (killed / LINES).write_bytes(kept + b'{"group": "layer 1 v", "gri')
    measure_sensitivity(FitInputs(folder, documents, importance, SEQ_LEN), groups, killed, QuietProgress())
    assert len(asked) == len(set(asked)) == total
    assert read_table(killed) == read_table(whole)
    assert [path.name for path in killed.iterdir()] == ["sensitivity.json"]


@pytest.fixture(scope="module")
def curvature(folder: Path, documents: list[Example], tmp_path_factory: pytest.TempPathFactory) -> CurvatureFiles:
    work = tmp_path_factory.mktemp("curvature")
    measure_curvature(folder, ScoredText(documents, SEQ_LEN, "float32", 0), work, QuietProgress())
    return CurvatureFiles(work)


def test_what_curvature_foretells_ranks_grids_as_measuring_does(
    folder: Path, shape: ModelShape, documents: list[Example], curvature: CurvatureFiles, tmp_path: Path
):
    groups = groups_of(shape, replace(MIX, candidates=("q4_0", "q5_0", "q8_0")))
    tables = []
    for name, text in (("foretold", None), ("measured", documents)):
        (tmp_path / name).mkdir()
        measure_sensitivity(FitInputs(folder, text, curvature, SEQ_LEN), groups, tmp_path / name, QuietProgress())
        tables.append(read_table(tmp_path / name))
    foretold, measured = ([table[group.name][f.name] for group in groups for f in group.formats] for table in tables)
    assert correlation(foretold, measured) > 0.9
    for group in groups:
        assert list(tables[0][group.name].values()) == sorted(tables[0][group.name].values(), reverse=True)
    state = load_model(folder).state_dict()
    names = ("model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight")
    fits = [
        (state[name], fit_costs(state[name], "q4_0", curvature[name], QUICK_PASSES), curvature[name]) for name in names
    ]
    assert tables[0]["layer 1 q+k"]["q4_0"] == pytest.approx(sum(expected_kl(*fit) for fit in fits), rel=1e-6)


def test_a_killed_run_foretells_nothing_twice(
    folder: Path, shape: ModelShape, curvature: CurvatureFiles, tmp_path: Path
):
    groups = groups_of(shape, MIX)
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(FitInputs(folder, None, curvature, SEQ_LEN), groups, tmp_path, Killed(9))
    told = [{**json.loads(line), "kl": 7.0} for line in (tmp_path / LINES).read_text().splitlines()]
    (tmp_path / LINES).write_text("".join(json.dumps(entry) + "\n" for entry in told))
    measure_sensitivity(FitInputs(folder, None, curvature, SEQ_LEN), groups, tmp_path, QuietProgress())
    table = read_table(tmp_path)
    assert all(table[entry["group"]][entry["grid"]] == 7.0 for entry in told)
    assert sum(kl == 7.0 for kls in table.values() for kl in kls.values()) == len(told) == 10


@pytest.fixture(scope="module")
def table(folder, shape, documents, importance, tmp_path_factory):
    work = tmp_path_factory.mktemp("table")
    measure_sensitivity(FitInputs(folder, documents, importance, SEQ_LEN), groups_of(shape, MIX), work, QuietProgress())
    return read_table(work)


@pytest.mark.parametrize("size", [Size(bits_per_weight=5.0), Size(bits_per_weight=6.5), Size(total_bytes=120_000)])
def test_a_fitted_mix_keeps_its_size_and_no_uniform_mix_beats_it(
    size: Size,
    folder: Path,
    shape: ModelShape,
    documents: list[Example],
    importance: dict[str, Tensor],
    table,
    tmp_path: Path,
):
    mix = Mix("fitted", "", size=size, candidates=("q4_0", "q8_0"))
    fit_mix(FitInputs(folder, documents, importance, SEQ_LEN), table, shape, mix, tmp_path, QuietProgress())
    found = json.loads((tmp_path / "mix.json").read_text())
    chosen = Mix("fitted", "", size=size, chosen=found["grids"])
    assert mix_bytes(shape, chosen) == found["bytes"] <= size_bytes(shape, size) == found["allowed_bytes"]
    assert set(found["grids"].values()) == {"q4_0", "q8_0"}
    assert assign_formats(shape, chosen)["model.norm.weight"].name == "f32"
    probe = Probe(folder, documents, SEQ_LEN, importance)
    assert found["kl"] == pytest.approx(probe.kl(found["grids"]), rel=1e-3)
    assert found["kl"] == min(rival["kl"] for rival in found["compared"].values())
    # The other way round, what matters most on the coarse grid, is worse.
    worst = choose_grids(
        fit_groups(shape, mix), {g: {f: -kl for f, kl in kls.items()} for g, kls in table.items()}, found["bytes"]
    )
    assert found["kl"] < probe.kl(worst)


def test_where_a_built_in_mix_is_better_it_is_taken(
    folder: Path, shape: ModelShape, documents: list[Example], importance: dict[str, Tensor], table, tmp_path: Path
):
    size = Size(total_bytes=mix_bytes(shape, "q4_0"))
    mix = Mix("fitted", "", size=size, candidates=("q4_0", "q8_0"))
    lying = {group: {grid: -kl for grid, kl in kls.items()} for group, kls in table.items()}
    fit_mix(FitInputs(folder, documents, importance, SEQ_LEN), lying, shape, mix, tmp_path, QuietProgress())
    found = json.loads((tmp_path / "mix.json").read_text())
    assert found["taken"] == "q4_0"
    assert found["grids"] == {name: f.name for name, f in assign_formats(shape, "q4_0").items() if f.quantized}


@pytest.mark.parametrize("family", sorted(set(tiny.VARIANTS) - {"llama"}))
def test_every_familys_layers_can_be_resumed(family: str, documents: list[Example], tmp_path: Path):
    folder = tiny.make_tiny(family, tmp_path / family)
    groups = groups_of(read_facts(folder, family).shape, MIX)
    group = next(group for group in reversed(groups) if group.layer is not None and group.layer > 0)
    state = load_model(folder).state_dict()
    swapped = {tensor.name: fit_ggml(state[tensor.name], "q4_0").decode() for tensor in group.tensors}
    found = Probe(folder, documents, SEQ_LEN, None).kl(dict.fromkeys(swapped, "q4_0"))
    assert found == pytest.approx(loop_kl(folder, swapped, documents), rel=2e-3)


def test_all_candidates_are_weighed_where_rows_divide(documents: list[Example], tmp_path: Path):
    folder = tiny.make_tiny_llama(tmp_path / "wide", layers=2, width=256, ffn=256, heads=4, kv_heads=2, seed=5)
    shape = read_facts(folder, "wide").shape
    mix = Mix("fitted", "", size=Size(bits_per_weight=4.6))
    groups = fit_groups(shape, mix)
    assert all(len(group.formats) == len(CANDIDATES) for group in groups)
    measure_sensitivity(FitInputs(folder, documents, None, SEQ_LEN), groups, tmp_path, QuietProgress())
    table = read_table(tmp_path)
    for kls in table.values():
        assert list(kls) == ["q2_k", "q3_k", "q4_0", "q4_k", "iq4_nl", "q5_0", "q5_k", "q6_k", "q8_0"]
        assert kls["q2_k"] > kls["q3_k"] > kls["q4_k"] > kls["q5_k"] > kls["q6_k"] > kls["q8_0"]
    fit_mix(FitInputs(folder, documents, None, SEQ_LEN), table, shape, mix, tmp_path, QuietProgress())
    found = json.loads((tmp_path / "mix.json").read_text())
    assert found["bytes"] <= int(4.6 * shape.parameters / 8)
    assert len(set(found["grids"].values())) > 2
    assert found["kl"] < Probe(folder, documents, SEQ_LEN, None).kl(dict.fromkeys(found["grids"], "q4_k"))
