"""What the chunked head and its loss cost against the plain way: whole logits and autograd through log_softmax. Time
and peak memory.

Run    python bench/head_loss.py [--only speed/49152/bfloat16/hidden ...] [--rounds 4] [--threads 2]
Writes bench/results/head_loss.json: for vocabularies of 49,152 (width 576) and 262,144 (width 640), float32 and
bfloat16, a teacher by its
       hidden states and one by its 64 likeliest words, with and without a gradient for the output matrix
         speed   seconds forward and backward of both ways, interleaved in one run, and their ratio
         memory  how far the peak of a process of its own rises above what it held before (weights and hidden states),
         forward and
                 backward, for ours at 4,096 tokens and for the plain way at as many as fit here (Linux)
         tune    ours with chunks and blocks of other lengths
       `--only` measures some of it and keeps the rest of the record.

The loss is forward KL. The peak with a gradient for the output matrix holds that gradient: 4·V·D bytes, 671 MB at
262,144.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgedistill.losses import head
from edgedistill.losses.choose import make_loss
from edgedistill.losses.head import head_loss
from edgedistill.losses.teachers import ExactTeacher, TopKTeacher
from edgedistill.machine import machine_facts

OUT = Path(__file__).parent / "results" / "head_loss.json"
WIDTH = {49152: 576, 262144: 640}  # SmolLM2-135M's and Gemma 3 270M's
SPEED_TOKENS = {49152: 1024, 262144: 256}
MEMORY_TOKENS = {"ours": {49152: 4096, 262144: 4096}, "plain": {49152: 1024, 262144: 512}}
LIMIT_BYTES = 3 * 2**29  # 1.5 GiB beyond the weights
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TEACHERS = ("hidden", "top_k")
K = 64
CHUNKS = (32, 64, 128, 256, 512)
BLOCKS = (2**16, 2**17, 2**18, 2**19, 2**20, 2**22)


class Case:
    """A student and its teacher at N tokens, and the two ways to their loss."""

    def __init__(self, vocabulary: int, dtype: str, teacher: str, trained: bool, tokens: int) -> None:
        torch.manual_seed(0)
        width, kind = WIDTH[vocabulary], TYPES[dtype]
        hidden = torch.randn(tokens, width)
        self.hidden = hidden.to(kind, copy=True).requires_grad_()
        self.weight = torch.empty(vocabulary, width, dtype=kind).normal_(std=2 / width**0.5).requires_grad_(trained)
        # The teacher has a matrix of its own only in name: a second one would be weights, which aren't counted.
        self.teacher_weight = self.weight.detach()
        self.teacher_hidden = (hidden + torch.randn(tokens, width) / 10).to(kind)
        self.known: ExactTeacher | TopKTeacher = ExactTeacher(self.teacher_hidden, self.teacher_weight)
        if teacher == "top_k":
            # Of a few tokens, again and again: what it costs is the same.
            top = torch.log_softmax(self.known.logits(0, 64), -1).topk(K)
            self.known = TopKTeacher(*(rows.repeat(tokens // 64, 1) for rows in (top.indices, top.values.half())))

    def ours(self, chunk: int | None = None) -> float:
        """Forward and backward by chunks."""
        return self._backward(head_loss(self.hidden, self.weight, make_loss("forward_kl", self.known), chunk=chunk))

    def plain(self) -> float:
        """Forward and backward with all logits at once."""
        log_q = torch.log_softmax((self.hidden @ self.weight.T).float(), -1)
        if isinstance(self.known, TopKTeacher):
            known_log = self.known.log_probs.float()
            tail = (1 - known_log.exp().sum(-1)).clamp_min(1e-6)
            known_log_q = log_q.gather(-1, self.known.ids)
            tail_q = (1 - known_log_q.exp().sum(-1)).clamp_min(1e-6)
            loss = ((known_log.exp() * (known_log - known_log_q)).sum(-1) + tail * (tail / tail_q).log()).mean()
        else:
            with torch.no_grad():
                log_p = torch.log_softmax((self.teacher_hidden @ self.teacher_weight.T).float(), -1)
            loss = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        return self._backward(loss)

    def _backward(self, loss: Tensor) -> float:
        loss.backward()
        self.hidden.grad = self.weight.grad = None
        return loss.item()


def speed(vocabulary: int, dtype: str, teacher: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Both ways by turns; the median of rounds and of their ratios."""
    tokens = SPEED_TOKENS[vocabulary]
    for trained in (False, True):
        case = Case(vocabulary, dtype, teacher, trained, tokens)
        wall: dict[str, list[float]] = {"ours": [], "plain": []}
        cpu: dict[str, list[float]] = {"ours": [], "plain": []}
        values = {}
        for turn in range(rounds + 1):
            for way in ("ours", "plain") if turn % 2 else ("plain", "ours"):
                started, used = time.perf_counter(), time.process_time()
                values[way] = case.ours() if way == "ours" else case.plain()
                if turn:  # the first round warms up
                    wall[way].append(time.perf_counter() - started)
                    cpu[way].append(time.process_time() - used)
        yield {
            "tokens": tokens,
            "weight_gradient": trained,
            "kl": values["ours"],
            "plain_kl": values["plain"],
            "seconds": statistics.median(wall["ours"]),
            "plain_seconds": statistics.median(wall["plain"]),
            "cpu_seconds": statistics.median(cpu["ours"]),
            "plain_cpu_seconds": statistics.median(cpu["plain"]),
            "ratio": statistics.median(a / b for a, b in zip(wall["ours"], wall["plain"], strict=True)),
            "cpu_ratio": statistics.median(a / b for a, b in zip(cpu["ours"], cpu["plain"], strict=True)),
        }


def memory(vocabulary: int, dtype: str, teacher: str, threads: int) -> Iterator[dict[str, Any]]:
    """Each in a process of its own."""
    # Large buffers straight from and back to the kernel, so that the peak counts what is in use and not what malloc
    # keeps.
    exact = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**22), "MALLOC_TRIM_THRESHOLD_": str(2**22)}
    for way, trained in product(("ours", "plain"), (False, True)):
        tokens = MEMORY_TOKENS[way][vocabulary]
        command = [
            sys.executable,
            __file__,
            "--peak",
            json.dumps([way, vocabulary, dtype, teacher, trained, tokens, threads]),
        ]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True, env=exact).stdout)
        yield {
            "way": way,
            "tokens": tokens,
            "weight_gradient": trained,
            "peak_bytes": peak,
            "gradient_bytes": 4 * vocabulary * WIDTH[vocabulary] if trained else 0,
            **({"limit_bytes": LIMIT_BYTES, "holds": peak < LIMIT_BYTES} if way == "ours" else {}),
        }


def peak_beyond(way: str, vocabulary: int, dtype: str, teacher: str, trained: bool, tokens: int, threads: int) -> int:
    """How far the resident size of this process rises during one forward and backward."""
    torch.set_num_threads(threads)
    case = Case(vocabulary, dtype, teacher, trained, tokens)
    warm = torch.randn(8, 64, dtype=TYPES[dtype], requires_grad=True)
    (warm @ torch.randn(64, 512, dtype=TYPES[dtype])).float().log_softmax(-1).sum().backward()
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted anew
    before = re.search(r"VmRSS:\s+(\d+) kB", status.read_text(encoding="ascii"))
    (case.ours if way == "ours" else case.plain)()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
    assert before
    assert peak
    return 1024 * (int(peak[1]) - int(before[1]))


def tune(vocabulary: int, dtype: str, teacher: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Ours with other chunks and the usual block, and with other blocks and the usual chunk, all by turns."""
    tokens = SPEED_TOKENS[vocabulary]
    case = Case(vocabulary, dtype, teacher, False, tokens)
    usual = min(head.CHUNK, head.CHUNK_LOGITS // vocabulary), head.BLOCK_LOGITS
    tried = list(dict.fromkeys([*((chunk, usual[1]) for chunk in CHUNKS), *((usual[0], block) for block in BLOCKS)]))
    wall: dict[tuple[int, int], list[float]] = {setting: [] for setting in tried}
    for turn in range(rounds + 1):
        for setting in tried if turn % 2 else reversed(tried):
            chunk, head.BLOCK_LOGITS = setting
            started = time.perf_counter()
            case.ours(chunk)
            if turn:
                wall[setting].append(time.perf_counter() - started)
    head.BLOCK_LOGITS = usual[1]
    for (chunk, block), times in wall.items():
        seconds = statistics.median(times)
        yield {
            "tokens": tokens,
            "chunk": chunk,
            "block_logits": block,
            "usual": (chunk, block) == usual,
            "seconds": seconds,
        }


def main() -> None:
    """Measure and write the record."""
    parts = ["/".join(map(str, part)) for part in product(("speed", "memory", "tune"), WIDTH, TYPES, TEACHERS)]
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak")
    arguments = parser.parse_args()
    if arguments.peak:
        sys.stdout.write(str(peak_beyond(*json.loads(arguments.peak))))
        return
    torch.set_num_threads(arguments.threads)
    done: dict[str, Any] = json.loads(OUT.read_text(encoding="utf-8"))["parts"] if OUT.is_file() else {}
    for name in arguments.only:
        part, vocabulary, dtype, teacher = name.split("/")
        measure: Callable[..., Iterator[dict[str, Any]]] = {"speed": speed, "memory": memory, "tune": tune}[part]
        load = os.getloadavg()[0]
        rows = list(
            measure(int(vocabulary), dtype, teacher, arguments.threads if part == "memory" else arguments.rounds)
        )
        command = f"python bench/head_loss.py --only {name} --rounds {arguments.rounds} --threads {arguments.threads}"
        done[name] = {"command": command, "threads": arguments.threads, "load_average": load, "rows": rows}
        print(json.dumps({name: done[name]}, indent=1), flush=True)
        found = {
            "command": "python bench/head_loss.py",  # of the whole record; a part has the one that made it
            "machine": machine_facts(),
            "torch": torch.__version__,
            "width": WIDTH,
            "top_k": K,
            "parts": {name: done[name] for name in parts if name in done},
        }
        OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
