"""Memory that teaching prose takes, as its budget grows: each budget in a process of its own, on a tiny teacher.

Run    python bench/prose_memory.py [--tokens 100k,300k,1M,3M] [--top-k 32] [--threads 1]
Writes bench/results/prose_memory.json: for each budget, with and without the teacher's signals, the tokens that were
read, seconds, the size of the shards, and the peak memory of the process; llama.cpp has the teacher in another. The
text is one file of drawn words, of the same size for every budget. Linux.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from edgedistill.cli.words import words_of  # noqa: E402
from edgedistill.config.teach import Teach  # noqa: E402
from edgedistill.export.gguf.write import float_checkpoint, write_gguf  # noqa: E402
from edgedistill.machine import machine_facts  # noqa: E402
from edgedistill.models.hf_folder import read_shape  # noqa: E402
from edgedistill.models.load import load_model  # noqa: E402
from edgedistill.models.tokenizer import load_tokenizer  # noqa: E402
from edgedistill.progress import Progress  # noqa: E402
from edgedistill.runtimes.memory import peak_rss_bytes  # noqa: E402
from edgedistill.store.whole import write_json  # noqa: E402
from edgedistill.teach.prose import read_all_prose  # noqa: E402
from edgedistill.teach.writers import LlamaWriter  # noqa: E402
from edgedistill.units import parse_count  # noqa: E402
from tests.tiny import make_tiny_llama  # noqa: E402

OUT = Path(__file__).parent / "results" / "prose_memory.json"
TEXT_BYTES = 16_000_000
WINDOW = 256
CHILD = "--child"


def make_text(path: Path) -> None:
    """Lines of drawn words."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < TEXT_BYTES:
            file.write(" ".join(rng.choices(words, k=14)) + ".\n")


def make_teacher(folder: Path) -> None:
    """A tiny model as a Hugging Face folder, and `teacher.gguf` in it."""
    make_tiny_llama(folder, layers=2, context=2 * WINDOW)
    shape, state = read_shape(folder), load_model(folder).state_dict()
    tensors = float_checkpoint({t.name: state[t.name].float() for t in shape.tensors()}, "f32")
    write_gguf(tensors, folder, shape, folder / "teacher.gguf", {"name": "teacher"})


def read(work: Path, tokens: int, top_k: int, threads: int) -> None:
    """Read the prose, and print what it took as JSON."""
    torch.set_num_threads(threads)
    settings = Teach.model_validate(
        {"tokens": 0, "style": "text", "text": str(work / "words.txt"), "text_tokens": tokens, "text_window": WINDOW}
    )
    tokenizer = load_tokenizer(work / "teacher")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=work) as folder:
        out = Path(folder)
        if top_k:
            with LlamaWriter(work / "teacher" / "teacher.gguf", threads, 2 * WINDOW, 4) as writer:
                counted = read_all_prose(writer, tokenizer, settings, top_k, out, Progress())
        else:
            counted = read_all_prose(None, tokenizer, settings, top_k, out, Progress())
        size = sum(path.stat().st_size for path in out.rglob("*.safetensors"))
    row = {
        "budget": tokens,
        "top_k": top_k,
        "counted": counted,
        "seconds": round(time.perf_counter() - began, 1),
        "shard_bytes": size,
        "peak_bytes": peak_rss_bytes(),
    }
    sys.stdout.write(json.dumps(row) + "\n")


def main() -> None:
    """Measure every budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="100k,300k,1M,3M")
    parser.add_argument("--top-k", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(CHILD, nargs=3, metavar=("WORK", "TOKENS", "TOP_K"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        work, tokens, top_k = asked.child
        read(Path(work), int(tokens), int(top_k), asked.threads)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_text(work / "words.txt")
        make_teacher(work / "teacher")
        for top_k in (0, asked.top_k):
            for word in words_of(asked.tokens):
                words = [CHILD, folder, str(parse_count(word)), str(top_k), "--threads", str(asked.threads)]
                done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
                rows.append(json.loads(done.stdout))
                row = rows[-1]
                sys.stdout.write(
                    f"{word:>5} top_k {top_k:2}: {row['peak_bytes'] / 2**20:.0f} MiB, {row['seconds']} s\n"
                )
    write_json(OUT, {"command": "python bench/prose_memory.py", "machine": machine_facts(), "rows": rows})


if __name__ == "__main__":
    main()
