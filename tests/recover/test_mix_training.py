"""The recover stage: without a budget it ships the fit, with one it comes nearer to the float student, by any loss that
a recipe names.
"""

import json
from pathlib import Path

import pytest
import torch

from edgedistill.config import Recipe
from edgedistill.config.recover import Recover
from edgedistill.data.example import Example, counted_from
from edgedistill.mixes import Mix, assign_formats
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.quant.checkpoint import GridCheckpoint, load_grid, save_grid
from edgedistill.quant.fit import fit_costs, fit_ggml, fit_importance
from edgedistill.recover.kept_fit import FIT, keep_fit, load_fit
from edgedistill.recover.mix_training import RecoverInputs, recover
from edgedistill.signals.shards import iter_shards, load_sources
from edgedistill.teach.capture import CaptureSettings, capture, load_importance
from tests.kills import Killed

NAME = "model.layers.1.mlp.down_proj.weight"


def documents(seed: int, count: int) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        tokens = torch.randint(3, 300, (32,), generator=generator, dtype=torch.int32)
        ids = torch.stack([torch.randperm(300, generator=generator)[:8] for _ in range(31)]).int()
        log_probs = torch.log_softmax(torch.randn(31, 9, generator=generator), -1)[:, :8].half()
        found.append(counted_from(tokens, 0, {"ids": ids, "log_probs": log_probs}))
    return found


@pytest.fixture(scope="module")
def captured(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captured")
    splits = [("train", documents(1, 24)), ("validation", documents(2, 8)), ("prose-validation", documents(3, 8))]
    capture(tiny_llama, splits, CaptureSettings(64, "float32", ("ids", "log_probs")), folder, QuietProgress())
    return folder


def run(
    student: Path, captured: Path, work: Path, mix: str = "q4_0", decides: tuple[str, ...] = (), **settings: object
) -> dict:
    """The curve of a recover stage."""
    asked = {"tokens": 2048, "seq_len": 64, "batch_tokens": 128, "learning_rate": 1e-4}
    asked |= {"compute": "float32", **settings}
    recipe = Recipe.model_validate({"schema": "edgedistill.recipe/1", "name": "mine", "recover": asked})
    training, validation = list(iter_shards(captured / "train")), load_sources(captured, "validation")
    formats = assign_formats(read_facts(student, "tiny").shape, Mix(mix, mix))
    costs = load_importance(captured) if recipe.recover.fit == "importance" else None
    work.mkdir(exist_ok=True)
    inputs = RecoverInputs(student, training, validation, costs, mix, formats, decides=decides)
    recover(inputs, recipe.recover, work, QuietProgress())
    return json.loads((work / "curve.json").read_text(encoding="utf-8"))


def test_without_a_budget_the_fit_ships(tiny_llama: Path, captured: Path, tmp_path: Path):
    curve = run(tiny_llama, captured, tmp_path / "fit", mix="q4_0", tokens=0, fit="importance")
    assert curve["points"] == []
    assert curve["best"]["step"] == 0
    weight = load_model(tiny_llama).get_parameter(NAME).detach()
    expected = fit_importance(weight, "q4_0", load_importance(captured)[NAME]).decode()
    shipped = load_grid(tmp_path / "fit").decode(NAME)
    # The nearest codes to the fitted scales, halfway ones to the even side.
    assert (shipped == expected).float().mean() > 0.999 or curve["verdict"].startswith("nothing beat")


def test_a_fit_that_a_killed_run_left_is_gone_on_from(tiny_llama: Path, captured: Path, tmp_path: Path):
    """The fit lies in the stage's folder from before the first step; what is there is not made again, and is gone in
    the end.
    """
    state = load_model(tiny_llama).state_dict()
    formats = assign_formats(read_facts(tiny_llama, "tiny").shape, Mix("q4_0", "q4_0"))
    left = {name: fit_ggml(state[name] * 1.003, stored.name) for name, stored in formats.items() if stored.quantized}
    work = tmp_path / "trained"
    (work / FIT).mkdir(parents=True)
    save_grid(work / FIT, GridCheckpoint("q4_0", left))
    curve = run(tiny_llama, captured, work, fit="ggml", train=["scales", "norms"], scale_learning_rate=1e-3)
    assert not curve["verdict"].startswith("nothing beat")
    shipped = load_grid(work).tensors
    assert all(torch.equal(shipped[name].parts().codes, left[name].parts().codes) for name in left)
    assert not (work / FIT).exists()


def test_a_fit_that_was_stopped_goes_on_tensor_by_tensor(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It once began anew, minutes of work at each stop."""
    monkeypatch.setattr("edgedistill.recover.kept_fit.PART_SECONDS", 0.0)
    state = load_model(tiny_llama).state_dict()
    formats = assign_formats(read_facts(tiny_llama, "tiny").shape, Mix("q4_0", "q4_0"))
    keep_fit(tmp_path / "whole", state, formats, None, "q4_0", QuietProgress())
    for tensors in (10, 15):
        with pytest.raises(KeyboardInterrupt):
            keep_fit(tmp_path / FIT, state, formats, None, "q4_0", Killed(tensors))
    left = [name for part in (tmp_path / "fit.parts").iterdir() for name in load_grid(part).tensors]
    assert len(left) == len(set(left)) == 15
    fitted_again = []
    fit = fit_costs
    monkeypatch.setattr("edgedistill.recover.kept_fit.fit_costs", lambda *args: fitted_again.append(1) or fit(*args))
    keep_fit(tmp_path / FIT, state, formats, None, "q4_0", QuietProgress())
    assert len(fitted_again) == sum(stored.quantized for stored in formats.values()) - len(left)
    whole, resumed = (tmp_path / name / "grid.safetensors" for name in ("whole", FIT))
    assert whole.read_bytes() == resumed.read_bytes()
    assert not (tmp_path / "fit.parts").exists()
    assert list(load_fit(tmp_path / FIT)) == list(load_fit(tmp_path / "whole"))


def test_where_rounding_loses_little_codes_stay_as_fitted(tiny_llama: Path, captured: Path, tmp_path: Path):
    curve = run(tiny_llama, captured, tmp_path / "trained", mix="q5_0", fit="ggml")
    assert curve["trained"] == ["scales", "norms"]
    assert curve["best"]["step"] > 0
    weight = load_model(tiny_llama).get_parameter(NAME).detach()
    fitted, shipped = fit_ggml(weight, "q5_0").parts(), load_grid(tmp_path / "trained").tensors[NAME].parts()
    assert torch.equal(shipped.codes, fitted.codes)
    assert not torch.equal(shipped.d, fitted.d)


def test_where_rounding_loses_next_to_nothing_training_computes_in_float32(
    tiny_llama: Path, captured: Path, tmp_path: Path
):
    """Activations in bfloat16 alone cost more than q8_0 does, and validation in it couldn't see a gain."""
    curve = run(tiny_llama, captured, tmp_path / "trained", mix="q8_0", fit="ggml", compute="bfloat16", tokens=256)
    assert curve["rounded"]["kl"] < 0.01
    assert curve["compute"] == "float32"
    assert set(curve["best"]["by_source"]) == {"written", "prose"}


def test_scales_alone_take_smaller_steps_unless_told():
    assert Recover().scale_rate(("weights", "scales")) == 1e-3
    assert Recover().scale_rate(("scales", "norms")) == 3e-4
    assert Recover(scale_learning_rate=2e-3).scale_rate(("scales",)) == 2e-3
    assert Recover().rate_of("q2_k", 0.5) == Recover().rate_of("q4_0", 0.3) == 1
    assert Recover().rate_of("q4_k_m", 0.03) == pytest.approx(0.1**0.5)
    assert Recover(rate_by_mix={"q8_0": 0.5}).rate_of("q8_0", 0.003) == 0.5


@pytest.mark.parametrize(
    ("settings", "rounded_kl", "trained"),
    [
        ({}, 0.05, ("scales", "norms")),
        ({}, 0.3, ("scales", "norms")),
        ({}, 0.38, ("scales", "norms")),
        ({"tokens": 60_000}, 0.3, ("scales", "norms")),
        ({"tokens": 60_000}, 0.38, ("weights", "scales", "norms")),
        ({"tokens": 60_000, "tokens_by_mix": {"q4_0": 8_000}}, 0.38, ("scales", "norms")),
        ({}, 2.0, ("weights", "scales", "norms")),
        ({"fit": "fisher"}, 0.05, ("scales", "norms")),
        ({"fit": "fisher"}, 0.3, ("weights", "scales", "norms")),
        ({"low_rank": 4}, 0.05, ("weights", "scales", "norms")),
        ({"train": ["weights"]}, 0.05, ("weights",)),
        ({"train": ["scales"]}, 0.3, ("scales",)),
    ],
)
def test_what_is_trained_goes_by_what_rounding_loses(settings: dict, rounded_kl: float, trained: tuple):
    assert Recover.model_validate(settings).trained("q4_0", rounded_kl) == trained


@pytest.mark.parametrize(
    "settings",
    [
        {"train": ["weights", "scales", "norms"]},
        {"loss": [{"kl": "jsd", "share": 0.3}]},
        {"loss": "reverse"},
        {"train": ["scales", "norms"]},
        {"low_rank": 4},
        {"simulate_activations": True},
    ],
    ids=str,
)
def test_training_comes_nearer_to_the_float_student(tiny_llama: Path, captured: Path, tmp_path: Path, settings: dict):
    curve = run(tiny_llama, captured, tmp_path / "trained", fit="ggml", **settings)
    assert curve["best"]["kl"] < curve["start"]["kl"]
    assert curve["best"]["kl"] < curve["rounded"]["kl"]


def test_the_teachers_own_share_pulls_towards_the_teacher(tiny_llama: Path, captured: Path, tmp_path: Path):
    """A teacher that says something else than the float student: with its share the KL to the float student ends
    higher.
    """
    alone = run(tiny_llama, captured, tmp_path / "alone", fit="ggml")
    shared = run(
        tiny_llama,
        captured,
        tmp_path / "shared",
        fit="ggml",
        loss=[{"kl": "forward", "weight": 0.5}, {"kl": "forward", "weight": 0.5, "towards": "teacher"}],
    )
    assert shared["points"][0]["loss"] > alone["points"][0]["loss"]
    assert shared["validation"][-1]["kl"] > alone["validation"][-1]["kl"]


@pytest.mark.parametrize("left", [[], [FIT], ["training", "training/checkpoint", FIT]])
def test_killed_while_it_cleaned_up_it_only_cleans_up(
    tiny_llama: Path, captured: Path, tmp_path: Path, left: list[str]
):
    """Half of the checkpoints or of the fit may be gone by then, and nothing is trained again."""
    work = tmp_path / "trained"
    curve = run(tiny_llama, captured, work)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in work.iterdir()}
    for name in left:
        (work / name).mkdir()
    assert run(tiny_llama, captured, work) == curve
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in work.iterdir()} == before


def test_where_there_is_nothing_to_train_the_fit_ships(tiny_llama: Path, captured: Path, tmp_path: Path):
    """mxfp4's scales are powers of two, which no gradient moves."""
    curve = run(tiny_llama, captured, tmp_path / "fit", mix="mxfp4", fit="ggml", train=["scales"])
    assert (curve["points"], curve["trained"], curve["best"]["step"]) == ([], [], 0)
    assert load_grid(tmp_path / "fit").tensors[NAME].grid == "mxfp4"


def test_the_text_that_decides_is_what_the_weights_are_chosen_and_reported_by(
    tiny_llama: Path, captured: Path, tmp_path: Path
):
    same: dict[str, object] = {"fit": "ggml", "rate_by_mix": {"q4_0": 1.0}}  # else what rounding loses sets the rate
    both = run(tiny_llama, captured, tmp_path / "both", **same)
    for source in ("written", "prose"):
        curve = run(tiny_llama, captured, tmp_path / source, decides=(source,), **same)
        seen = {checked["step"]: checked["by_source"] for checked in curve["validation"]}
        assert seen == {checked["step"]: checked["by_source"] for checked in both["validation"]}
        assert curve["best"]["step"] == min(seen, key=lambda step: seen[step][source])
        assert all(checked["kl"] == checked["by_source"][source] for checked in curve["validation"])
        assert curve["rounded"]["kl"] == both["rounded"]["by_source"][source] != both["rounded"]["kl"]
        assert "on the task's validation text" in curve["verdict"]
