"""Every stage that torch computes, whole and on another device than the processor: no two devices meet, and what it
writes is what the processor writes but for the order of sums.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from edgedistill.config import Recipe
from edgedistill.config.phase import Phase
from edgedistill.config.students.both import DepthWidthStudent
from edgedistill.config.students.depth import DepthStudent
from edgedistill.config.students.width import WidthStudent
from edgedistill.distill.phase import TrainingText, distill
from edgedistill.distill.step import BlockTarget
from edgedistill.formats import FORMATS
from edgedistill.losses.of_terms import Pairing, block_objective
from edgedistill.measure.judge import Judge, make_reference
from edgedistill.mixes import Mix, Size, assign_formats, fit_groups, mix_bytes
from edgedistill.models.facts import read_facts
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.layer_map import LayerMap
from edgedistill.models.students.build import build_student
from edgedistill.models.students.origin import Origin
from edgedistill.plan.rival import rival_mix
from edgedistill.progress import QuietProgress
from edgedistill.quant.checkpoint import load_grid
from edgedistill.quant.fit import fit_costs
from edgedistill.recover.choose import CHOSEN, fit_mix
from edgedistill.recover.curvature import CurvatureFiles, measure_curvature
from edgedistill.recover.fisher import measure_fisher
from edgedistill.recover.mix_training import RecoverInputs, recover
from edgedistill.recover.rival import RivalInputs, fit_rival
from edgedistill.recover.scores import ScoredText
from edgedistill.recover.sensitivity import FitInputs, measure_sensitivity, read_table
from edgedistill.signals.shards import iter_shards, load_sources
from edgedistill.teach.blocks import BlockSettings, store_blocks
from edgedistill.teach.capture import CaptureSettings, capture, load_importance
from edgedistill.train.live import live_blocks
from tests.device.elsewhere import NAME, MixedDevicesError, world
from tests.recover.test_mix_training import documents
from tests.tiny import make_tiny

DEVICES = ("cpu", NAME)
QUANTIZED = [name for name, each in FORMATS.items() if each.quantized]
DIVERGENCES = [{"kl": kind} for kind in ("forward", "reverse", "jsd", "skew", "skew_reverse", "tvd")]


def on(device: str, work: Callable[[], object]) -> None:
    """Do it, with the device there."""
    if device == "cpu":
        work()
        return
    with world():
        work()


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's files, by file and name."""
    return {
        f"{path.relative_to(folder)}/{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_alike(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], tolerance: float = 1e-4) -> None:
    assert set(ours) == set(theirs)
    assert ours
    for name, tensor in ours.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), theirs[name].double(), rtol=tolerance, atol=tolerance, msg=name)
        else:
            assert (tensor != theirs[name]).float().mean() < 0.01, name


@pytest.fixture(scope="module", params=["llama", "gemma3_text"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family with whole attention, and one with windows, sandwiched norms and a scaled embedding."""
    return make_tiny(request.param, tmp_path_factory.mktemp("model") / request.param)


@pytest.fixture(scope="module")
def captured(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captured")
    splits = [("train", documents(1, 12)), ("validation", documents(2, 4))]
    capture(tiny_llama, splits, CaptureSettings(64, "float32", ("ids", "log_probs")), folder, QuietProgress())
    return folder


@pytest.fixture(scope="module")
def curvature(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> CurvatureFiles:
    folder = tmp_path_factory.mktemp("curvature")
    measure_curvature(tiny_llama, ScoredText(documents(4, 6), 64, "float32", 9), folder, QuietProgress())
    return CurvatureFiles(folder)


def test_tensors_of_two_devices_may_not_meet():
    with world(), pytest.raises(MixedDevicesError, match="of the processor"):
        torch.ones(3).to(NAME) + torch.ones(3)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_capture(model: Path, tmp_path: Path, compute: str):
    splits = [("train", documents(1, 6)), ("validation", documents(2, 3))]
    for device in DEVICES:
        settings = CaptureSettings(64, compute, ("ids",), device)
        folder = tmp_path / device
        folder.mkdir()
        on(device, lambda: capture(model, splits, settings, folder, QuietProgress()))  # noqa: B023
    tolerance = 1e-2 if compute == "float32" else 0.1  # stored in bfloat16
    assert_alike(tensors_in(tmp_path / "cpu"), tensors_in(tmp_path / NAME), tolerance)


def test_what_errors_cost(model: Path, tmp_path: Path):
    for device in DEVICES:
        text = ScoredText(documents(4, 3), 64, "float32", 9, device)
        for measure in (measure_curvature, measure_fisher):
            folder = tmp_path / device / measure.__name__
            folder.mkdir(parents=True)
            on(device, lambda: measure(model, text, folder, QuietProgress()))  # noqa: B023
    assert_alike(tensors_in(tmp_path / "cpu"), tensors_in(tmp_path / NAME), 2e-2)  # a bfloat16's last bit


def test_the_teachers_blocks_are_stored(model: Path, tmp_path: Path):
    shape = read_shape(model)
    terms = Phase.model_validate({"loss": [{"states": "mse"}, {"relations": ["qq", "kk", "vv"]}]}).block_terms
    layers = LayerMap(shape.layers, shape.layers)
    needs = block_objective(terms, Pairing(shape, shape, layers.state, layers.block)).teacher
    for device in DEVICES:
        (tmp_path / device).mkdir()
        settings = BlockSettings(needs, 64, "float32", "phases.0.seq_len", device)
        texts = {"written": [example.with_signal() for example in documents(1, 4)]}
        on(device, lambda: store_blocks(model, texts, settings, tmp_path / device, QuietProgress()))  # noqa: B023
    assert_alike(tensors_in(tmp_path / "cpu"), tensors_in(tmp_path / NAME), 2e-2)


@pytest.mark.parametrize(
    "kind", [DepthStudent(layers=2), WidthStudent(width=32), DepthWidthStudent(layers=2, width=32)]
)
@pytest.mark.parametrize("importance", ["activations", "gradient"])
def test_students_are_cut(tiny_llama: Path, tmp_path: Path, kind, importance: str):
    if hasattr(kind, "importance"):
        kind = kind.model_copy(update={"importance": importance})
    for device in DEVICES:
        texts = [torch.arange(3, 90), torch.arange(100, 200)]
        origin = Origin(tiny_llama, "tiny", "mit", "text", texts, device=device)
        (tmp_path / device).mkdir()
        on(device, lambda: build_student(kind, origin, tmp_path / device, QuietProgress()))  # noqa: B023
    assert_alike(tensors_in(tmp_path / "cpu"), tensors_in(tmp_path / NAME))


LOSSES = [
    *([term] for term in DIVERGENCES),
    [{"kl": "forward", "temperature": 2.0, "weight": 0.9}, {"text": True, "weight": 0.1}],
    [{"text": True}],
    [{"kl": "forward"}, {"states": "cosine"}],
    [{"states": "mse"}],
    [{"relations": ["qq", "kk", "vv"]}],
]


def distilled(student: Path, teacher: Path, device: str, work: Path, phase: Phase, live: bool = True) -> None:
    """A phase with what it looks at inside the teacher, live."""
    target = None
    if phase.block_terms:
        ours, theirs = read_shape(student), read_shape(teacher)
        layers = LayerMap(ours.layers, theirs.layers)
        objective = block_objective(phase.block_terms, Pairing(ours, theirs, layers.state, layers.block))
        target = BlockTarget(objective, live_blocks(teacher, objective.teacher, torch.float32, device))
    training, validation = documents(1, 8), documents(2, 4)
    text = TrainingText({"written": training}, {"written": validation}, blocks=target, device=device)
    work.mkdir(parents=True)
    distill(student, text, phase, work, QuietProgress())


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: "+".join(next(iter(t.values())).__str__() for t in loss))
def test_distill_with_every_objective(tiny_llama: Path, tmp_path: Path, loss: list[dict[str, object]]):
    settings = {"tokens": 256, "seq_len": 64, "batch_tokens": 128, "learning_rate": 1e-3, "compute": "float32"}
    phase = Phase.model_validate({**settings, "loss": loss})
    for device in DEVICES:
        on(device, lambda: distilled(tiny_llama, tiny_llama, device, tmp_path / device, phase))  # noqa: B023
    assert_alike(tensors_in(tmp_path / "cpu"), tensors_in(tmp_path / NAME), 2e-3)
    curves = [json.loads((tmp_path / device / "curve.json").read_text()) for device in DEVICES]
    losses = [[point["loss"] for point in curve["points"]] for curve in curves]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "change", [{"compute": "bfloat16"}, {"adapter": {"kind": "lora"}}, {"adapter": {"kind": "qlora"}}], ids=str
)
def test_distill_in_bfloat16_and_with_adapters(tiny_llama: Path, tmp_path: Path, change: dict[str, object]):
    settings = {"tokens": 256, "seq_len": 64, "batch_tokens": 128, "learning_rate": 1e-3, "compute": "float32"}
    phase = Phase.model_validate({**settings, **change})
    for device in DEVICES:
        on(device, lambda: distilled(tiny_llama, tiny_llama, device, tmp_path / device, phase))  # noqa: B023
    assert_alike(tensors_in(tmp_path / "cpu"), tensors_in(tmp_path / NAME), 2e-2)


def recovered(student: Path, captured: Path, device: str, work: Path, mix: str, **settings: object) -> None:
    wish = {"tokens": 256, "seq_len": 64, "batch_tokens": 128, "compute": "float32", **settings}
    part = Recipe.model_validate({"schema": "edgedistill.recipe/1", "name": "mine", "recover": wish}).recover
    training, validation = list(iter_shards(captured / "train")), load_sources(captured, "validation")
    formats = assign_formats(read_facts(student, "tiny").shape, Mix(mix, mix))
    costs = load_importance(captured) if part.fit == "importance" else None
    work.mkdir(parents=True)
    inputs = RecoverInputs(student, training, validation, costs, mix, formats, device=device)
    recover(inputs, part, work, QuietProgress())


@pytest.mark.parametrize("mix", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4"])
def test_recover_on_every_grid(tiny_llama: Path, captured: Path, tmp_path: Path, mix: str):
    train = {"train": ["weights", "scales", "norms"], "fit": "importance"}
    for device in DEVICES:
        on(device, lambda: recovered(tiny_llama, captured, device, tmp_path / device, mix, **train))  # noqa: B023
    assert_same_grid(tmp_path)


def assert_same_grid(folder: Path) -> None:
    ours, theirs = (load_grid(folder / device) for device in DEVICES)
    assert set(ours.tensors) == set(theirs.tensors)
    for name in ours.tensors:
        a, b = ours.decode(name), theirs.decode(name)
        assert (a - b).norm() <= 0.03 * a.norm(), name


@pytest.mark.parametrize(
    "settings",
    [
        {"train": ["scales", "norms"]},
        {"train": ["norms"]},
        {"low_rank": 4},
        {"simulate_activations": True},
        {"compute": "bfloat16"},
        {"loss": [{"kl": "forward", "towards": "teacher"}, {"text": True, "weight": 0.1}]},
    ],
    ids=str,
)
def test_recover_in_every_way(tiny_llama: Path, captured: Path, tmp_path: Path, settings: dict[str, object]):
    for device in DEVICES:
        work = tmp_path / device
        on(device, lambda: recovered(tiny_llama, captured, device, work, "q4_0", fit="ggml", **settings))  # noqa: B023
    assert_same_grid(tmp_path)


@pytest.mark.parametrize("grid", QUANTIZED)
def test_fits_on_every_grid(grid: str):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(24, 512, generator=generator) * 0.05
    inputs = torch.randn(600, 512, generator=generator)
    from edgedistill.quant.fit import Curvature

    every = [None, torch.rand(512, generator=generator), torch.rand(24, 512, generator=generator)]
    every.append(Curvature(inputs.T @ inputs / 600))
    for costs in every:
        with world() as device:
            there = fit_costs(weight.to(NAME), grid, costs, passes=2)
            assert there.packed.device.type == NAME
            packed = there.packed.cpu()
        here = fit_costs(weight, grid, costs, passes=2)
        assert (packed != here.packed).float().mean() < 0.02, (grid, type(costs))
        assert device.waits.total() < 60, device.waits


def test_grids_are_chosen_and_the_rival_is_fitted(tiny_llama: Path, curvature: CurvatureFiles, tmp_path: Path):
    shape = read_facts(tiny_llama, "tiny").shape
    mix = Mix("fitted", "", size=Size(bits_per_weight=6.0), candidates=("q4_0", "q8_0"))
    groups = fit_groups(shape, mix)
    tables = {}
    for device in DEVICES:
        inputs = FitInputs(tiny_llama, None, curvature, 64, device)
        (tmp_path / device).mkdir()
        on(device, lambda: measure_sensitivity(inputs, groups, tmp_path / device, QuietProgress()))  # noqa: B023
        tables[device] = read_table(tmp_path / device)
    for group, row in tables["cpu"].items():
        assert row == pytest.approx(tables[NAME][group], rel=0.05)
    for device in DEVICES:
        inputs = FitInputs(tiny_llama, documents(2, 3), curvature, 64, device)
        folder = tmp_path / f"mix-{device}"
        folder.mkdir()
        on(device, lambda: fit_mix(inputs, tables["cpu"], shape, mix, folder, QuietProgress()))  # noqa: B023
    here, there = (json.loads((tmp_path / f"mix-{device}" / CHOSEN).read_text()) for device in DEVICES)
    assert here["kl"] == pytest.approx(there["kl"], rel=0.05)


def test_the_rival_is_fitted(tiny_llama: Path, curvature: CurvatureFiles, tmp_path: Path):
    shape = read_facts(tiny_llama, "tiny").shape
    rival = rival_mix(mix_bytes(shape, Mix("q4_0", "q4_0")))
    choices = []
    for device in DEVICES:
        inputs = RivalInputs(tiny_llama, shape, curvature, rival, device)
        folder = tmp_path / device
        folder.mkdir()
        on(device, lambda: fit_rival(inputs, folder, QuietProgress()))  # noqa: B023
        choices.append(json.loads((folder / CHOSEN).read_text()))
    assert choices[0]["predicted_kl"] == pytest.approx(choices[1]["predicted_kl"], rel=0.05)


def test_references_are_the_same(model: Path, tmp_path: Path):
    judge = Judge("prose", "a test", tuple(example.with_signal() for example in documents(5, 3)))
    for device in DEVICES:
        out = tmp_path / device / "reference.safetensors"
        out.parent.mkdir()
        on(device, lambda: make_reference(model, [judge], out, "m", QuietProgress(), None, device))  # noqa: B023
    assert_alike(tensors_in(tmp_path / "cpu"), tensors_in(tmp_path / NAME))
