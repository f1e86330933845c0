"""Fuzz the readers of foreign files, guided by which of their lines an input reaches (atheris), and count how they end.

Run    pip install -e '.[fuzz]'
       python bench/fuzz.py [--minutes 15] [gguf safetensors yaml template]     (minutes for each; the hour: all four)
Writes bench/results/faults.json: a class "fuzz of READER" for each, beside those of bench/faults.py.

An input of safetensors or YAML is changed by its structure as often as by its bytes. Each reader runs in a process of
its own with MEMORY_BYTES of memory and DEADLINE_S for an input; what it raises is counted by the place that raised
it, and the first input of each is kept under build/fuzz/READER. What runs over a limit ends the process, is kept too,
and another goes on. See tests/faults/readers.py for what is right.
"""

import argparse
import contextlib
import hashlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults.counts import Counts, record  # noqa: E402
from tests.faults.readers import READERS  # noqa: E402

KEPT = ROOT / "build" / "fuzz"
MEMORY_BYTES = 4 << 30  # of address space, of which imports take a part
DEADLINE_S = 10
LONGEST_BYTES = 16384
DICTIONARIES = {
    "gguf": ["tokenizer.ggml.", "general.alignment", "llama.", "rope.scaling.type", "split.count", "qwen2", "gemma3"],
    "safetensors": ["dtype", "shape", "data_offsets", "__metadata__", "F32", "BF16"],
    "yaml": [
        "schema:",
        "edgedistill.recipe/1",
        "edgedistill.target/1",
        "!!",
        "&a",
        "*a",
        "<<:",
        "0x",
        "1e309",
        "2.0e-5",
    ],
    "template": [
        "{% ",
        " %}",
        "{{ ",
        " }}",
        "range(",
        "loop.",
        "messages",
        "namespace(",
        "| join",
        "cycler(",
        "lipsum(",
    ],
}


def main(minutes: float, chosen: list[str]) -> None:
    """Fuzz one reader after the other."""
    for name in chosen:
        started = time.monotonic()
        counts = fuzz(name, minutes * 60)
        print(f"{counts.name}: {counts.tried} tried, {len(counts.wrong)} wrong")
        print("".join(f"  {wrong}\n" for wrong in counts.wrong), end="", flush=True)
        record([counts], f"python bench/fuzz.py --minutes {minutes:g} {name}", time.monotonic() - started)


def fuzz(name: str, seconds: float) -> Counts:
    """One reader for so long, in as many processes as that takes."""
    counts = Counts(f"fuzz of {name}")
    kept = KEPT / name
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="edgedistill-fuzz-") as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(READERS[name].seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
        words = "".join(f'"{word}"\n' for word in DICTIONARIES[name])
        (Path(scratch) / "words").write_text(words, encoding="utf-8")
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 1:
            tried, over = _process(name, Path(scratch), kept, left)
            counts.tried += tried
            if over and not READERS[name].bounded:
                counts.wrong.append(over)
            if tried == 0:
                break
    counts.wrong += sorted(path.read_text(encoding="utf-8") for path in kept.glob("*.txt"))
    return counts


def _process(name: str, scratch: Path, kept: Path, seconds: float) -> tuple[int, str | None]:
    """(how many inputs a process tried, which limit it ran over)."""
    options = [
        f"-max_total_time={max(1, round(seconds))}",
        f"-timeout={DEADLINE_S}",
        "-rss_limit_mb=3000",
        f"-max_len={LONGEST_BYTES}",
        f"-artifact_prefix={kept}/",
        f"-dict={scratch / 'words'}",
        "-print_final_stats=1",
    ]
    command = [sys.executable, __file__, "--child", name, str(scratch), *options, str(scratch / "corpus")]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    stats = re.search(r"number_of_executed_units: (\d+)", done.stderr) or re.search(r"Done (\d+) runs", done.stderr)
    ran = (
        int(stats[1])
        if stats
        else max((int(number) for number in re.findall(r"^#(\d+)\t", done.stderr, re.M)), default=0)
    )
    if done.returncode == 0:
        return ran, None
    last = next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line or "Error" in line), "")
    return ran, f"ended with {done.returncode}: {last[:200] or done.stderr[-300:]}"


def child(name: str, scratch: str, options: list[str]) -> None:
    """Fuzz within this process, until libFuzzer ends it."""
    import atheris

    reader = READERS[name]
    with atheris.instrument_imports(include=["edgedistill", "yaml", "jinja2", "json"], enable_loader_override=False):
        reader.read(reader.seeds()[0], Path(scratch))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _over)

    def one(content: bytes) -> None:
        signal.setitimer(signal.ITIMER_REAL, 2 if reader.bounded else 0)
        try:
            reader.read(content, Path(scratch))
        except _OverError:
            pass
        except Exception as error:
            _keep(KEPT / name, content, error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def changed(content: bytes, longest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if reader.change is not None and rng.random() < 0.5:
            with contextlib.suppress(ValueError, TypeError, RecursionError, MemoryError, OverflowError):
                return reader.change(content, rng)[:longest]
        return bytes(atheris.Mutate(content, longest))

    atheris.Setup([sys.argv[0], *options], one, custom_mutator=changed)
    atheris.Fuzz()


class _OverError(BaseException):
    """Past the deadline that the product's own process has."""


def _over(*_: object) -> None:
    raise _OverError


def _keep(kept: Path, content: bytes, error: Exception) -> None:
    """The first input that raises a kind of error at a place of ours, and what it said."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "edgedistill/" in frame.filename and "/tests/" not in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
    key = hashlib.sha256(f"{type(error).__name__} {place}".encode()).hexdigest()[:12]
    if not (kept / key).exists():
        (kept / key).write_bytes(content)
        said = f"{type(error).__name__} at {place}: {str(error)[:150]}".encode(errors="backslashreplace").decode()
        (kept / f"{key}.txt").write_text(" ".join(said.split()), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("--minutes", type=float, default=15.0, help="for each reader")
        parser.add_argument("readers", nargs="*", help=", ".join(READERS))
        given = parser.parse_args()
        unknown = [name for name in given.readers if name not in READERS]
        if unknown:
            parser.error(f"{unknown[0]} is no reader; there are {', '.join(READERS)}")
        try:
            import atheris  # noqa: F401
        except ImportError:
            parser.exit(2, "atheris isn't installed. Run: pip install -e '.[fuzz]'\n")
        main(given.minutes, given.readers or list(READERS))
