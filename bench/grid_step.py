"""What fake quantization costs a training step: the same step with float layers and with layers on grids, interleaved
in one run.

Run    python bench/grid_step.py [--rounds 5] [--threads 2]
Writes bench/results/grid_step.json: seconds a step (median, wall and CPU) of a llama of width 768 with float linear
layers and with each
       grid, their ratio, and how much more memory a step reaches at its peak.

A step is what the recover stage does: forward in bfloat16 over float32 masters, the chunked head's KL, backward, AdamW.
Memory is each variant's own process, its peak resident size during the second step less the float one's (Linux).
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from edgedistill.data.example import counted_from
from edgedistill.data.packing import make_batch
from edgedistill.formats import FORMATS
from edgedistill.losses.forward_kl import ForwardKL
from edgedistill.losses.head import head_loss
from edgedistill.machine import machine_facts
from edgedistill.quant.latent import Learned
from edgedistill.recover.place import place_on_grid
from edgedistill.train.forward import kept_hidden

OUT = Path(__file__).parent / "results" / "grid_step.json"
FLOAT = "float"
GRIDS = ("q4_0", "q8_0", "q4_k")
SEQ_LEN, ROWS = 256, 4  # the chat recipe's 1024 tokens a step
SIZES = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 8192,
}


def make_step(variant: str) -> Callable[[], None]:
    """A model on its grid (or float) and the function that trains it for a step."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True, max_position_embeddings=SEQ_LEN))
    model.model.embed_tokens.weight.requires_grad_(False)
    if variant != FLOAT:
        linear = {
            f"{name}.weight"
            for name, m in model.named_modules()
            if isinstance(m, torch.nn.Linear) and name != "lm_head"
        }
        place_on_grid(model, dict.fromkeys(linear, FORMATS[variant]), None, Learned())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    weight = model.lm_head.weight.detach().bfloat16()
    texts = torch.randint(0, 8192, (ROWS, SEQ_LEN))
    batch = make_batch([[counted_from(text, 0, {"hidden": torch.randn(SEQ_LEN - 1, 768)})] for text in texts], SEQ_LEN)
    teacher = ForwardKL(batch.signal["hidden"].bfloat16(), weight)

    def step() -> None:
        head_loss(kept_hidden(model, batch, torch.bfloat16), weight, teacher).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peak_bytes(variant: str) -> int:
    """Peak resident bytes of a process that trains the variant for two steps."""
    command = [sys.executable, __file__, "--peak", variant]
    # Large buffers straight from and back to the kernel, so that the peak counts what is in use and not what malloc
    # keeps.
    exact = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=exact).stdout)


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        step = make_step(arguments.peak)
        step()
        Path("/proc/self/clear_refs").write_text(
            "5", encoding="ascii"
        )  # the peak is counted anew, without the model's making
        step()
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        assert peak
        sys.stdout.write(str(int(peak[1]) * 1024))
        return
    variants = (FLOAT, *GRIDS)
    steps = {variant: make_step(variant) for variant in variants}
    wall: dict[str, list[float]] = {variant: [] for variant in variants}
    cpu: dict[str, list[float]] = {variant: [] for variant in variants}
    for turn in range(arguments.rounds + 1):
        for variant in variants if turn % 2 else reversed(variants):
            started, used = time.perf_counter(), time.process_time()
            steps[variant]()
            if turn:  # the first round warms up
                wall[variant].append(time.perf_counter() - started)
                cpu[variant].append(time.process_time() - used)
    del steps
    peaks = {variant: peak_bytes(variant) for variant in variants}
    rows = [
        {
            "variant": variant,
            "seconds": statistics.median(wall[variant]),
            "cpu_seconds": statistics.median(cpu[variant]),
            "ratio": statistics.median(a / b for a, b in zip(wall[variant], wall[FLOAT], strict=True)),
            "cpu_ratio": statistics.median(a / b for a, b in zip(cpu[variant], cpu[FLOAT], strict=True)),
            "peak_bytes": peaks[variant],
            "more_bytes": peaks[variant] - peaks[FLOAT],
        }
        for variant in variants
    ]
    largest = 4 * SIZES["hidden_size"] * SIZES["intermediate_size"]
    found = {
        "command": f"python bench/grid_step.py --rounds {arguments.rounds} --threads {arguments.threads}",
        "machine": machine_facts(),
        "torch": torch.__version__,
        "model": SIZES,
        "tokens_a_step": SEQ_LEN * ROWS,
        "largest_tensor_bytes": largest,
        "rows": rows,
    }
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
