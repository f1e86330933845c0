"""The training loop: what it computes, and that a killed run goes on to the same bits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgedistill.errors import RunError
from edgedistill.progress import QuietProgress
from edgedistill.train.adamw import AdamW, AdamWSettings
from edgedistill.train.checkpoints import Checkpoints
from edgedistill.train.curve import Checked
from edgedistill.train.loop import TrainSettings, learning_rate_share, train
from edgedistill.train.validation import ValidationLoss

SCRIPT = """
import sys, time
from pathlib import Path
import torch
from tests.train.test_loop import run
weight, curve = run(Path(sys.argv[1]), steps=40, pause=float(sys.argv[2]))
torch.save((weight, curve.state()["validation"]), sys.argv[3])
"""


def of(loss: float) -> ValidationLoss:
    return ValidationLoss(loss, {"text": loss})


def run(work: Path, steps: int = 40, pause: float = 0.0, rate: float = 0.05):
    """Fit a line by gradient descent; a problem whose answer is known."""
    import time

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(64, 5, generator=generator)
    target = data @ torch.arange(1.0, 6.0)
    weight = torch.zeros(5, requires_grad=True)

    def loss_of_step(step: int):
        time.sleep(pause)
        rows = slice(8 * (step % 8), 8 * (step % 8) + 8)
        return (data[rows] @ weight - target[rows]).square().mean(), 8

    def validate() -> ValidationLoss:
        with torch.no_grad():
            errors = (data @ weight - target).square()
        return ValidationLoss(
            errors.mean().item(), {"first": errors[:32].mean().item(), "last": errors[32:].mean().item()}
        )

    settings = TrainSettings(steps, validate_after=range(4, steps, 4), checkpoint_seconds=0.0)
    curve = train({rate: {"weight": weight}}, loss_of_step, validate, settings, work, QuietProgress())
    return weight.detach(), curve


def test_it_learns_and_ends_with_the_best_validation(tmp_path: Path):
    weight, curve = run(tmp_path, steps=400, rate=0.1)
    torch.testing.assert_close(weight, torch.arange(1.0, 6.0), rtol=0.05, atol=0.05)
    start = curve.validation[0].by_source

    def worst(checked: Checked) -> float:
        return max(checked.by_source["first"] / start["first"], checked.by_source["last"] / start["last"])

    assert worst(curve.best) == min(map(worst, curve.validation)) < 1


def test_adamw_and_clipping_are_torchs(tmp_path: Path):
    """Two steps by hand with torch's own optimizer."""
    weight, _ = run(tmp_path, steps=2, rate=0.5)
    by_hand = torch.zeros(5, requires_grad=True)
    optimizer = torch.optim.AdamW([by_hand], lr=0.5, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(64, 5, generator=generator)
    target = data @ torch.arange(1.0, 6.0)
    for step in range(2):
        rows = slice(8 * step, 8 * step + 8)
        (data[rows] @ by_hand - target[rows]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_([by_hand], 1.0)
        optimizer.param_groups[0]["lr"] = 0.5 * learning_rate_share(step, TrainSettings(2))
        optimizer.step()
        optimizer.zero_grad()
        for moment in ("exp_avg", "exp_avg_sq"):  # ours are kept in bfloat16
            optimizer.state[by_hand][moment] = optimizer.state[by_hand][moment].bfloat16().float()
    torch.testing.assert_close(weight, by_hand.detach())


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path: Path):
    whole, curve = run(tmp_path / "whole")
    for pause_s in (0.35, 0.6):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path / "killed", "0.05", tmp_path / "out.pt"])
        state = tmp_path / "killed" / "training" / "checkpoint" / "state.json"
        while not state.exists():
            assert process.poll() is None
        try:
            process.wait(pause_s)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "killed", "0", tmp_path / "out.pt"], check=True)
    weight, validation = torch.load(tmp_path / "out.pt", weights_only=True)
    assert torch.equal(weight, whole)
    assert validation == curve.state()["validation"]


def test_the_rate_warms_up_and_falls_to_its_share():
    settings = TrainSettings(100, warmup=0.1, final_rate=0.1)
    shares = [learning_rate_share(step, settings) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == pytest.approx(1.0)
    assert max(shares) == pytest.approx(1.0)
    assert shares[99] == pytest.approx(0.1, abs=0.01)


def test_no_better_validation_means_the_start_is_kept(tmp_path: Path):
    weight = torch.ones(3, requires_grad=True)
    values = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    settings = TrainSettings(20, validate_after=range(20), patience=0.1)
    curve = train(
        {0.1: {"w": weight}},
        lambda step: (weight.sum(), 1),
        lambda: of(next(values)),
        settings,
        tmp_path,
        QuietProgress(),
    )
    assert curve.stopped_early
    assert curve.best.step == 0
    assert curve.validation[-1].step == 4  # two of warm-up, and two that were no better
    assert torch.equal(weight.detach(), torch.ones(3))


def test_it_never_stops_in_its_warm_up(tmp_path: Path):
    """64 of 781 steps were a whole training once: four validations, the rate still rising."""
    weight = torch.ones(3, requires_grad=True)
    values = iter([1.0, *(1 + step for step in range(40)), *([0.5] * 60)])
    settings = TrainSettings(100, warmup=0.4, validate_after=range(1, 100), patience=0.1)
    curve = train(
        {0.1: {"w": weight}},
        lambda step: (weight.sum(), 1),
        lambda: of(next(values)),
        settings,
        tmp_path,
        QuietProgress(),
    )
    assert curve.best.step == 41
    assert curve.stopped_early
    assert curve.validation[-1].step == 51


def test_it_goes_on_while_the_mean_falls(tmp_path: Path):
    """The source that fares worst is noisy: its best of step 1 stays the best until step 12, and the mean falls."""
    weight = torch.ones(3, requires_grad=True)
    prose = [0.1, 0.08, *([0.09] * 10), 0.07]
    losses = iter([(1.0 - 0.05 * step, value) for step, value in enumerate(prose)])

    def validate() -> ValidationLoss:
        chats, prose = next(losses)
        return ValidationLoss((chats + prose) / 2, {"chats": chats, "prose": prose})

    settings = TrainSettings(12, validate_after=range(1, 12), patience=0.25)
    groups = {0.1: {"w": weight}}
    curve = train(groups, lambda _: (weight.sum(), 1), validate, settings, tmp_path, QuietProgress())
    assert not curve.stopped_early
    assert curve.best.step == 12


def test_a_checkpoint_is_as_good_as_its_worst_source(tmp_path: Path):
    """The mean falls further in the second validation, but prose is worse there than before the first step."""
    weight = torch.ones(3, requires_grad=True)
    losses = iter([(1.0, 0.1), (0.8, 0.09), (0.2, 0.11), (0.9, 0.095)])

    def validate() -> ValidationLoss:
        chats, prose = next(losses)
        return ValidationLoss((chats + prose) / 2, {"chats": chats, "prose": prose})

    settings = TrainSettings(3, validate_after=range(1, 4))
    curve = train({0.1: {"w": weight}}, lambda step: (weight.sum(), 1), validate, settings, tmp_path, QuietProgress())
    assert curve.best.step == 1
    written = curve.to_json("t")
    assert written["best"] == {"step": 1, "tokens": 1, "kl": 0.445, "by_source": {"chats": 0.8, "prose": 0.09}}
    assert written["start"] == {"kl": 0.55, "by_source": {"chats": 1.0, "prose": 0.1}}


def test_best_weights_go_to_the_disk_with_a_checkpoint_alone(tmp_path: Path):
    """Each validation is better than the one before: once 4 bytes a weight were written at each."""
    weight = torch.ones(1000, requires_grad=True)
    values = iter([1 / (1 + step) for step in range(31)])
    written: list[int] = []

    def validate() -> ValidationLoss:
        written.append(sum(1 for path in tmp_path.rglob("*.safetensors")))
        return of(next(values))

    settings = TrainSettings(30, validate_after=range(1, 31), checkpoint_seconds=3600)
    curve = train({0.1: {"w": weight}}, lambda step: (weight.sum(), 1), validate, settings, tmp_path, QuietProgress())
    assert curve.best.step == 30
    assert written == [0] * 31


def test_checkpoints_take_a_twentieth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    parameters = {"w": torch.ones(3, requires_grad=True)}
    store = Checkpoints(tmp_path, parameters, AdamW(parameters, AdamWSettings()), 10.0)
    clock = [0.0]
    monkeypatch.setattr("edgedistill.train.checkpoints.time.monotonic", lambda: clock[0])
    store.saved_at, store.save_seconds = 0.0, 3.0
    clock[0] = 59.0
    assert not store.due()
    clock[0] = 60.0
    assert store.due()
    store.save_seconds, clock[0] = 0.1, 9.0
    assert not store.due()


def test_a_loss_that_is_no_number_stops_the_stage(tmp_path: Path):
    weight = torch.ones(3, requires_grad=True)
    with pytest.raises(RunError, match=r"the loss is nan at step 0; lower the learning rate"):
        train(
            {0.1: {"w": weight}},
            lambda s: ((weight * float("nan")).sum(), 1),
            lambda: of(1.0),
            TrainSettings(2),
            tmp_path,
            QuietProgress(),
        )
