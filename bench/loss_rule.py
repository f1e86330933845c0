"""What rounding and cutting cost, as rules that the planner can compute: least squares over committed records.

Run    python bench/loss_rule.py
Reads  bench/results/compare.json, recovery-grid.json, auto_mix.json (loss against bits) and demo.json (loss against
       what was cut).
Writes bench/results/loss_rule.json: the constants, each record beside what the rule says, and the rules' errors as
       factors. plan/loss_rule.py has the constants.

Every loss is a mean KL to the float teacher, in nats a token, fitted on its logarithm, so that an error is a factor.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.speed_rule import SMOLLM2
from edgedistill.facts import ModelShape
from edgedistill.plan.loss_rule import CutRule, RoundingRule, error_share

RESULTS = Path(__file__).parent / "results"
OUT = RESULTS / "loss_rule.json"
FLOORS = [step * 1e-4 for step in range(5, 35)]  # nats a token, tried one after the other
LAYERS = 30
DEMO_TOKENS = 36_864  # that the demo's student is trained on


@dataclass(frozen=True)
class Point:
    """A record: its name, what the rule is given, and the loss."""

    name: str
    given: tuple[float, ...]
    loss: float


def load(name: str) -> dict[str, Any]:
    """A record."""
    content: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return content


def rounding_points() -> list[Point]:
    """Built-in mixes at our fit, trained on little: (mean of 4^-bits,)."""
    points = []
    for name in ("compare.json", "demo.json"):
        record = load(name)
        shape = ModelShape(layers=record["student"]["layers"], **SMOLLM2)  # type: ignore[arg-type]
        for row in record["rows"]:
            if row["kind"] == "recovered" and row["runtime"] == "llama.cpp":
                share = error_share(shape, row["mix"])
                for judge, quality in row["quality"].items():
                    points.append(Point(f"{name} {row['mix']} {judge}", (share,), quality["kl_student_mean"]))
    shape = ModelShape(layers=LAYERS, **SMOLLM2)  # type: ignore[arg-type]
    for row in load("recovery-grid.json")["rows"]:
        if row["tool"] == "edgedistill fit":
            name = f"recovery-grid.json {row['mix']} {row['judge']}"
            points.append(Point(name, (error_share(shape, row["mix"]),), row["kl"]))
    return points


def auto_points() -> list[Point]:
    """Mixes fitted to a size: (bits a weight,)."""
    record = load("auto_mix.json")
    points = []
    for size in record["sizes"]:
        bits = 8 * size["weight_bytes"] / record["model"]["parameters"]
        for judge, quality in size["fitted"]["quality"].items():
            points.append(Point(f"auto_mix.json {size['mix']} {judge}", (bits,), quality["kl_float_mean"]))
    for row in load("recovery-grid.json")["rows"]:
        if row["tool"] == "edgedistill auto fit":
            bits = 8 * row["tensor_bytes"] / record["model"]["parameters"]
            points.append(Point(f"recovery-grid.json auto_{row['mix']} {row['judge']}", (bits,), row["kl"]))
    return points


def cut_points() -> list[Point]:
    """The one cut on record: (share of the weights outside of the tables that is gone, 1 for width else 0, tokens)."""
    demo = load("demo.json")
    (row,) = (row for row in demo["rows"] if row["kind"] == "float")
    share = 1 - demo["student"]["layers"] / demo["teacher"]["layers"]
    qualities = row["quality"].items()
    return [Point(f"demo.json {judge}", (share, 0.0, DEMO_TOKENS), q["kl_teacher_mean"]) for judge, q in qualities]


def solved(columns: Sequence[Sequence[float]], losses: Sequence[float]) -> list[float]:
    """The factors of columns whose sum is nearest to the losses' logarithms."""
    factors, *_ = np.linalg.lstsq(np.array(columns).T, np.log(np.array(losses)), rcond=None)
    return [float(factor) for factor in factors]


def error(points: Sequence[Point], rule: Callable[..., float]) -> float:
    """The root mean square of the logarithms of rule over record, as a factor."""
    logs = [math.log(rule(*point.given) / point.loss) for point in points]
    return math.exp(math.sqrt(sum(each * each for each in logs) / len(logs)))


def fit_rounding() -> RoundingRule:
    """The rule of rounding with the floor that fits best."""
    plain, auto = rounding_points(), auto_points()
    best: tuple[float, RoundingRule] | None = None
    for floor in FLOORS:
        if any(point.loss <= floor for point in [*plain, *auto]):
            continue
        (scale,) = solved([[1.0] * len(plain)], [(point.loss - floor) / point.given[0] for point in plain])
        (auto_scale,) = solved([[1.0] * len(auto)], [(point.loss - floor) * 4.0 ** point.given[0] for point in auto])
        rule = RoundingRule(floor, math.exp(scale), math.exp(auto_scale))
        off = error(plain, rule.plain) * error(auto, rule.auto)
        if best is None or off < best[0]:
            best = off, rule
    assert best is not None
    return best[1]


def fit_cuts() -> CutRule:
    """In proportion to what is cut, which one cut can't test; a training counts as the demo's."""
    points = cut_points()
    (scale,) = solved([[1.0] * len(points)], [point.loss / point.given[0] for point in points])
    return CutRule(math.exp(scale), math.exp(scale), power=1.0, learned=0.0, half_tokens=DEMO_TOKENS)


def listed(points: Sequence[Point], rule: Callable[..., float]) -> list[dict[str, Any]]:
    """Each record beside what the rule says."""
    return [{"record": p.name, "measured": p.loss, "rule": rule(*p.given)} for p in points]


def main() -> None:
    """Fit, and write the record."""
    rounding, cuts = fit_rounding(), fit_cuts()
    plain, auto, cut = rounding_points(), auto_points(), cut_points()
    record = {
        "schema": "edgedistill.loss_rule/1",
        "command": "python bench/loss_rule.py",
        "rounding": vars(rounding),
        "cuts": vars(cuts),
        "errors": {
            "plain": error(plain, rounding.plain),
            "auto": error(auto, rounding.auto),
            "cuts": error(cut, cuts.loss),
        },
        "points": {
            "plain": listed(plain, rounding.plain),
            "auto": listed(auto, rounding.auto),
            "cuts": listed(cut, cuts.loss),
        },
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: record[key] for key in ("rounding", "cuts", "errors")}, indent=1))


if __name__ == "__main__":
    main()
