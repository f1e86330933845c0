"""What a byte of each number format costs while decoding, against one of q4_0: least squares over committed records.

Run    python bench/speed_rule.py
Reads  bench/results/compare.json, demo.json and speeds.json: decoding speeds of SmolLM2-135M's files on two cores.
Writes bench/results/speed_rule.json: the costs, and how far the rule is from each record. plan/speed_rule.py has them.

The rule: seconds a token = Σ over formats of bytes read in it × what a byte of it costs. Each row's residual is
relative to its own time. Formats of which no record holds much are left at q4_0's cost, and a mix fitted to a size is
one of its own, since which formats it will have isn't known when it is planned.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.facts import ModelShape
from edgedistill.mixes import Mix, assign_formats, mix_bytes

RESULTS = Path(__file__).parent / "results"
OUT = RESULTS / "speed_rule.json"
BASE = "q4_0"
FORMATS = ("f16", "q8_0", "q5_0", "q4_0")
SMOLLM2 = {
    "family": "llama",
    "width": 576,
    "heads": 9,
    "kv_heads": 3,
    "head_dim": 64,
    "ffn": 1536,
    "vocab": 49152,
    "context": 8192,
    "tied": True,
    "rope_theta": 1e5,
    "norm_eps": 1e-5,
}


@dataclass(frozen=True)
class Timed:
    """A file's bytes by format, and its seconds a token."""

    name: str
    read: Mapping[str, int]
    seconds: float


def read_bytes(shape: ModelShape, mix: str) -> dict[str, int]:
    """Bytes by format of what a token reads: all weights, since the table is the output layer too."""
    formats = assign_formats(shape, Mix(mix, mix))
    read: dict[str, int] = {}
    for tensor in shape.tensors():
        number_format = formats[tensor.name]
        name = number_format.name if number_format.name in FORMATS else BASE
        if number_format.name != "f32":
            read[name] = read.get(name, 0) + number_format.tensor_bytes(tensor.rows, tensor.cols)
    return read


def timed_rows(name: str) -> list[Timed]:
    """The rows of a report of SmolLM2-135M in llama.cpp whose formats are known."""
    record: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    shape = ModelShape(layers=record["student"]["layers"], **SMOLLM2)  # type: ignore[arg-type]
    rows = []
    for row in record["rows"]:
        mix = row["mix"] or {"float": "f16"}.get(row["kind"])
        if row["runtime"] == "llama.cpp" and mix is not None:
            decode = row["speed"]["decode_tokens_per_s"]["mean"]
            rows.append(Timed(f"{name} {row['label']}", read_bytes(shape, mix), 1 / decode))
    return rows


def auto_cost() -> float:
    """What a byte of a fitted mix costs: as many bytes as q4_0's at another speed, in turn with it."""
    rows = {row["file"]: row for row in json.loads((RESULTS / "speeds.json").read_text(encoding="utf-8"))["rows"]}
    return 1 / float(rows["auto_q4_0"]["over_first"]["decode"])


def main() -> None:
    """Fit, and write the record."""
    rows = [*timed_rows("compare.json"), *timed_rows("demo.json")]
    table = np.array([[row.read.get(name, 0) / row.seconds for name in FORMATS] for row in rows])
    costs, *_ = np.linalg.lstsq(table, np.ones(len(rows)), rcond=None)
    relative = {name: float(cost / costs[FORMATS.index(BASE)]) for name, cost in zip(FORMATS, costs, strict=True)}
    shape = ModelShape(layers=30, **SMOLLM2)  # type: ignore[arg-type]
    q4_0 = sum(size * relative[name] for name, size in read_bytes(shape, BASE).items()) / mix_bytes(shape, BASE)
    relative["auto"] = auto_cost() * q4_0
    off = {row.name: float(line @ costs) for row, line in zip(rows, table, strict=True)}
    record = {
        "schema": "edgedistill.speed_rule/1",
        "command": "python bench/speed_rule.py",
        "costs": relative,
        "seconds_a_byte_of_q4_0": float(costs[FORMATS.index(BASE)]),
        "predicted_over_measured_seconds": off,
        "mean_error": float(np.mean(np.abs(np.array(list(off.values())) - 1))),
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
