"""What our search for K-quants loses against ggml's own fit in the same bytes, with and without an importance matrix.

Run    python bench/k_quants.py FOLDER [--every 5] [--weights 150000]
       FOLDER holds a causal language model in Hugging Face's layout, with float weights.
Writes bench/results/k_quants.json: for each K-quant the mean and the worst tensor of Σ c (w − ŵ)² of our search over
that of
       ggml_quantize_chunk, and CPU seconds per ten million weights of both.

Costs c are 1, or sqrt(σ² + w²)·E[x²] with E[x²] of the layer's inputs on the bundled judge's text; ggml is given that
E[x²] as its importance matrix. A folder that was made from a file in blocks of 32 lies on that file's grid, which finer
grids can hold exactly; so further rows, `off the grid`, move each weight by up to half a step of 4 bits in its block of
32. Rows are cut to a multiple of 256 weights; only every few tensors, and of those the first rows, are measured. The
search is the grid's `fit` alone, without ggml's better blocks.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgedistill.machine import load_average, machine_facts
from edgedistill.quant import ggml
from edgedistill.quant.fit import importance_of
from edgedistill.quant.grids import GRIDS, GridTensor, decode

OUT = Path(__file__).parent / "results" / "k_quants.json"
TEXT = Path(__file__).parent.parent / "edgedistill" / "data" / "texts" / "judge.txt"
NAMES = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
POSITIONS = 512


def layers(folder: Path, every: int, weights: int) -> list[tuple[Tensor, Tensor]]:
    """Weights [O, I] and their inputs' mean squares [I] of every few linear layers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(folder)(TEXT.read_text(encoding="utf-8"), add_special_tokens=False)[
        "input_ids"
    ][:POSITIONS]
    found: list[tuple[Tensor, Tensor]] = []

    def keep(module: torch.nn.Linear, inputs: tuple[Tensor]) -> None:
        cols = module.in_features // 256 * 256
        weight = module.weight.detach()[: max(1, weights // cols), :cols].contiguous()
        found.append((weight, inputs[0].reshape(-1, module.in_features).square().mean(0)[:cols].contiguous()))

    linear = [
        m
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and name != "lm_head" and m.in_features >= 256
    ]
    for module in linear[::every]:
        module.register_forward_pre_hook(keep)
    with torch.no_grad():
        model(torch.tensor([tokens]))
    return found


def off_grid(weight: Tensor) -> Tensor:
    """A weight moved by up to half a step of 4 bits in each block of 32."""
    blocks = weight.view(weight.shape[0], -1, 32)
    step = (blocks.amax(-1, keepdim=True) - blocks.amin(-1, keepdim=True)) / 15
    return (blocks + (torch.rand(blocks.shape) - 0.5) * step).view_as(weight)


def loss(weight: Tensor, importance: Tensor | None, decoded: Tensor) -> float:
    """Σ c (w − ŵ)² in float64."""
    squared = (weight.double() - decoded.double()).square_()
    return float((squared if importance is None else squared.mul_(importance.double())).sum())


def compare(name: str, measured: list[tuple[Tensor, Tensor]], weighted: bool) -> dict[str, float]:
    """Mean and worst ratio over the tensors, and CPU seconds per ten million weights."""
    ratios, ours_s, theirs_s = [], 0.0, 0.0
    for weight, mean_square in measured:
        importance = importance_of(weight, mean_square) if weighted else None
        started = time.process_time()
        parts = GRIDS[name].fit(weight, importance)
        fitted = time.process_time()
        packed = ggml.quantize(weight, name, mean_square if weighted else None)
        ours_s, theirs_s = ours_s + fitted - started, theirs_s + time.process_time() - fitted
        ours, theirs = (
            loss(weight, importance, decode(GRIDS[name], parts)),
            loss(weight, importance, GridTensor(name, packed).decode()),
        )
        ratios.append(ours / theirs)
    tens = sum(weight.numel() for weight, _ in measured) / 1e7
    return {
        "mean_ratio": statistics.fmean(ratios),
        "worst_ratio": max(ratios),
        "tensors_worse": sum(ratio > 1 for ratio in ratios),
        "search_cpu_seconds_per_10m": ours_s / tens,
        "ggml_cpu_seconds_per_10m": theirs_s / tens,
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--weights", type=int, default=150_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    real = layers(arguments.folder, arguments.every, arguments.weights)
    sets = {"as they are": real, "off the grid": [(off_grid(weight), mean_square) for weight, mean_square in real]}
    rows = []
    for name in NAMES:
        for weights, measured in sets.items():
            for weighted in (False, True):
                rows.append(
                    {"grid": name, "weights": weights, "importance": weighted, **compare(name, measured, weighted)}
                )
                sys.stdout.write(json.dumps(rows[-1]) + "\n")
    found = {
        "command": (
            f"python bench/k_quants.py {arguments.folder.name} --every {arguments.every} --weights {arguments.weights}"
        ),
        "machine": machine_facts(),
        "load_average": load_average(),
        "threads": 1,
        "torch": torch.__version__,
        "tensors": len(real),
        "weights": sum(weight.numel() for weight, _ in real),
        "positions": POSITIONS,
        "rows": rows,
    }
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
