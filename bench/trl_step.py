"""A recovery step against the same step without fake quantization and against TRL's GKDTrainer: tokens/s and peak
memory.

Run    python bench/trl_step.py FOLDER --trl PYTHON [--rounds 6] [--threads 2] [--rows 2] [--length 512]
Writes bench/results/trl_step.json

FOLDER is a float model (Hugging Face); PYTHON is the interpreter of the environment `trl` (bench/rivals/setup.py trl).
Every variant is a process of its own that takes a step when told, so that steps of all variants of a type take turns
within one run while the others wait: a machine that is slow for a minute is slow for all. All train the same model at
the same batch towards the float model's distribution (KL), with AdamW (ours keeps its moments in bfloat16, TRL's in
float32), by matrix products in the type that is named:

    q4_0          edgedistill's recover step: linear layers on q4_0; weights, scales and norms trained, the teacher's
    hidden states at hand
    q4_0 scales   the same with the codes frozen: only scales and norms trained
    float         the same without fake quantization
    capture       what edgedistill pays once for those hidden states, however often the text is used: the float model's
        forward pass
    trl fastest   GKDTrainer, the float model as its live teacher, gradient checkpointing off, the tied table frozen as
    ours is trl default   the same with gradient checkpointing on and all weights trained, as TRL has it

Peak memory is the highest resident size during a step of a process that gives freed buffers back at once; beside it the
one of the process that was timed. A step on random tokens costs what a step on text costs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

RIVALS = Path(__file__).resolve().parent / "rivals"
OUT = Path(__file__).parent / "results" / "trl_step.json"
OURS, THEIRS = ("q4_0", "q4_0 scales", "float", "capture"), ("fastest", "default")
# Large buffers straight from and back to the kernel, so that a peak counts what is in use and not what malloc keeps.
EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Child:
    """A process that takes steps (rivals/stepping.py)."""

    def __init__(self, command: list[str], threads: int, more: dict[str, str]) -> None:
        """Start it and wait until it is ready.

        Raises:
            SystemExit: it ended instead; its own words are on standard error.
        """
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **more}
        self.command = command
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answer()

    def ask(self, command: str) -> dict[str, float]:
        """Send a command and wait for its answer."""
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._answer()

    def quit(self) -> None:
        """End the process."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.quit()
            raise SystemExit(f"{' '.join(self.command)} ended with {self.process.returncode}")
        answer: dict[str, float] = json.loads(line)
        return answer


def serve(folder: Path, variant: str, dtype_name: str, rows: int, length: int, threads: int) -> None:
    """The child of our own variants."""
    sys.path.insert(0, str(RIVALS))
    from stepping import Stepper

    stepper = Stepper()
    import torch

    from edgedistill.data.example import counted_from
    from edgedistill.data.packing import make_batch
    from edgedistill.formats import FORMATS
    from edgedistill.losses.forward_kl import ForwardKL
    from edgedistill.losses.head import head_loss
    from edgedistill.models.load import load_model
    from edgedistill.quant.latent import Learned
    from edgedistill.recover.place import place_on_grid
    from edgedistill.train.adamw import AdamW, AdamWSettings
    from edgedistill.train.forward import compute_type, kept_hidden

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dtype = compute_type(dtype_name)
    model = load_model(folder)
    width, vocab = model.config.hidden_size, model.config.vocab_size
    model.get_input_embeddings().weight.requires_grad_(False)
    if variant.startswith("q4_0"):
        linear = {
            f"{name}.weight"
            for name, m in model.named_modules()
            if isinstance(m, torch.nn.Linear) and name != "lm_head"
        }
        place_on_grid(model, dict.fromkeys(linear, FORMATS["q4_0"]), None, Learned(weights=variant == "q4_0"))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW({str(at): p for at, p in enumerate(trained)}, AdamWSettings())
    rates = dict.fromkeys(optimizer.parameters, 1e-5)
    weight = model.get_output_embeddings().weight.detach().to(dtype)
    documents = [
        counted_from(torch.randint(0, vocab, (length,)), 0, {"hidden": torch.randn(length - 1, width).to(dtype)})
        for _ in range(rows)
    ]
    batch = make_batch([[document] for document in documents], length)
    teacher = ForwardKL(batch.signal["hidden"].to(dtype), weight)

    def step() -> None:
        if variant == "capture":
            with torch.no_grad():
                kept_hidden(model, batch, dtype)
            return
        head_loss(kept_hidden(model, batch, dtype), weight, teacher).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step(rates)

    stepper.ready()
    while True:
        stepper.wait()
        step()
        stepper.done()


def commands(arguments: argparse.Namespace, dtype: str) -> dict[str, list[str]]:
    """How each variant's process is started."""
    sizes = [
        "--dtype",
        dtype,
        "--rows",
        str(arguments.rows),
        "--length",
        str(arguments.length),
        "--threads",
        str(arguments.threads),
    ]
    folder = str(arguments.folder)
    ours = {variant: [sys.executable, __file__, folder, "--serve", variant, *sizes] for variant in OURS}
    theirs = {
        f"trl {variant}": [str(arguments.trl), str(RIVALS / "trl_gkd.py"), folder, variant, *sizes]
        for variant in THEIRS
    }
    return ours | theirs


def measure(arguments: argparse.Namespace, dtype: str) -> list[dict[str, Any]]:
    """All variants in one type: steps in turns, then each one's peak."""
    tokens = arguments.rows * arguments.length
    children = {name: Child(command, arguments.threads, {}) for name, command in commands(arguments, dtype).items()}
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in children}
    for turn in range(arguments.rounds + 2):
        for name in children if turn % 2 else reversed(children):
            answer = children[name].ask("step")
            if turn >= 2:  # the first two rounds warm up
                answers[name].append(answer)
        sys.stderr.write(f"{dtype} round {turn}\n")
    timed_peaks = {name: child.ask("peak")["peak_bytes"] for name, child in children.items()}
    for child in children.values():
        child.quit()
    rows = []
    for name, command in commands(arguments, dtype).items():
        child = Child(command, arguments.threads, EXACT)
        child.ask("step")  # makes the optimizer's state
        peak = child.ask("peak")["peak_bytes"]
        child.quit()
        seconds = [answer["seconds"] for answer in answers[name]]
        cpu = [answer["cpu_seconds"] for answer in answers[name]]
        rows.append(
            {
                "variant": name,
                "dtype": dtype,
                "tokens_per_s": tokens / statistics.median(seconds),
                "seconds": {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)},
                "cpu_seconds": statistics.median(cpu),
                "peak_bytes": peak,
                "peak_bytes_timed": timed_peaks[name],
                "all_seconds": [round(value, 4) for value in seconds],
            }
        )
    return rows


def compare(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one type: the recovery step's rate over each other variant's (median of the ratios round by round), and its
    peak over theirs.
    """
    by_name = {row["variant"]: row for row in rows}
    ours, capture = by_name["q4_0"], by_name["capture"]
    found: dict[str, Any] = {}
    for name, row in by_name.items():
        if name in ("q4_0", "capture"):
            continue
        together = zip(row["all_seconds"], ours["all_seconds"], capture["all_seconds"], strict=True)
        ratios = [(other / step, other / (step + once)) for other, step, once in together]
        found[name] = {
            "rate_ratio": statistics.median(ratio for ratio, _ in ratios),
            "rate_ratio_with_capture": statistics.median(ratio for _, ratio in ratios),
            "peak_ratio": ours["peak_bytes"] / row["peak_bytes"],
        }
    return found


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trl", type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--output", type=Path, default=OUT)
    parser.add_argument("--serve", choices=OURS)
    parser.add_argument("--dtype")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.folder, arguments.serve, arguments.dtype, arguments.rows, arguments.length, arguments.threads)
        return
    if arguments.trl is None:
        raise SystemExit("--trl is missing: the python of the environment that bench/rivals/setup.py trl makes")
    from edgedistill.machine import load_average, machine_facts

    busy = load_average()
    rows, compared = [], {}
    for dtype in arguments.dtypes.split(","):
        found = measure(arguments, dtype)
        rows += found
        compared[dtype] = compare(found)
    packages = ("trl", "torch", "transformers", "accelerate")
    asked = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {packages}}}))"
    theirs = subprocess.run([str(arguments.trl), "-c", asked], check=True, capture_output=True, text=True).stdout
    import torch
    import transformers

    record = {
        "command": f"python bench/trl_step.py FOLDER --trl PYTHON --rounds {arguments.rounds} --threads "
        f"{arguments.threads} "
        f"--rows {arguments.rows} --length {arguments.length}",
        "machine": machine_facts(),
        "load_average_before": busy,
        "batch": [arguments.rows, arguments.length],
        "threads": arguments.threads,
        "versions": {
            "ours": {"torch": torch.__version__, "transformers": transformers.__version__},
            "trl": json.loads(theirs),
        },
        "rows": rows,
        "q4_0_against": compared,
    }
    arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(compared, indent=1) + "\n")


if __name__ == "__main__":
    main()
