"""llama.cpp's own files: plain rounding, and rounding with an importance matrix, from the float model's F32 GGUF file.

With an importance matrix llama.cpp gives q4_0's first `ffn_down` tensors more bits (q4_1). Where types differ, its file
is made twice: with those of plain rounding, for the comparison at equal bytes, and as it comes.

A small model's q4_0 keeps its table in 8 bits, a quarter of the file. About the same bytes hold q5_0 everywhere, the
table too, which anybody gets with one more option of llama-quantize. That file stands beside q4_0's.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from contest.corpus import put
from edgedistill.models.gguf_file import read_header

FILE_TYPES = {"q4_0": 2, "q8_0": 7, "q2_k": 10, "q3_k_m": 12, "q4_k_m": 15}  # llama.h, enum llama_ftype
PLAIN, IMATRIX, IMATRIX_TYPES = "llama.cpp", "llama.cpp imatrix", "llama.cpp imatrix, its own types"
FINER = "llama.cpp imatrix, q5_0 everywhere"
FINER_OF, FINER_TYPE, FINER_FILE = "q4_0", 6, 8  # the mix whose bytes it has; ggml's type q5_0, and the file's
NAMES = {number: name for name, number in FILE_TYPES.items()} | {FINER_FILE: "q5_0"}
TABLES = ("token_embd.weight", "output.weight")


def quantize(
    source: Path, out: Path, file_type: int, importance: Path | None, types: dict[str, int], threads: int
) -> None:
    """Write `source` as a file of a type to `out`.

    Args:
        file_type: of llama.h's enum llama_ftype.
        importance: a file of importance.py, or None.
        types: GGUF name -> ggml type of tensors that the mix doesn't decide.
    Raises:
        SystemExit: llama.cpp can't; with its words.
    """
    part = out.with_name(out.name + ".part")
    out.parent.mkdir(parents=True, exist_ok=True)
    asked = {
        "source": str(source),
        "out": str(part),
        "file_type": file_type,
        "threads": threads,
        "importance": str(importance) if importance else None,
        "types": {f"^{name.replace('.', chr(92) + '.')}$": kind for name, kind in types.items()},
    }
    child = [sys.executable, str(Path(__file__).parent / "quantize_child.py")]
    done = subprocess.run(child, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SystemExit(f"llama.cpp can't write {out.name} (exit code {done.returncode}): {last}")
    part.replace(out)


def tensor_types(path: Path) -> dict[str, int]:
    """GGUF name -> ggml type of each tensor of two dimensions."""
    return {name: tensor.type_id for name, tensor in read_header(path).tensors.items() if len(tensor.shape) > 1}


def tensor_facts(path: Path) -> dict[str, object]:
    """File size, bytes of the tensors alone, and how many tensors have which type."""
    tensors = read_header(path).tensors.values()
    counts = Counter(tensor.type_name for tensor in tensors)
    return {
        "bytes": path.stat().st_size,
        "tensor_bytes": sum(tensor.size for tensor in tensors),
        "tensors": dict(counts.most_common()),
    }


def make_rows(
    source: Path, mixes: list[str], importance: Path, calibration_tokens: int, work: Path, threads: int
) -> None:
    """Write `work`/NAME/MIX.gguf, each with its JSON beside it, for two to four kinds; files that are there are
    left.
    """
    for mix in mixes:
        plain, same, own = (work / name / f"{mix}.gguf" for name in (PLAIN, IMATRIX, IMATRIX_TYPES))
        if not plain.is_file():
            _make(source, plain, FILE_TYPES[mix], None, {}, {"tokens": 0}, threads)
        matrix = {"tokens": 0, "calibration_tokens": calibration_tokens}
        if not same.is_file():
            _make(source, same, FILE_TYPES[mix], importance, tensor_types(plain), matrix, threads)
            _make(source, own, FILE_TYPES[mix], importance, {}, matrix, threads)
            if tensor_types(same) != tensor_types(plain):
                raise SystemExit(
                    f"{same}: its tensor types aren't those of plain rounding, so the two can't be compared "
                    "at equal bytes"
                )
            if tensor_types(own) == tensor_types(plain):
                own.unlink()
                own.with_suffix(".json").unlink()
        finer = work / FINER / f"{mix}.gguf"
        if mix == FINER_OF and not finer.is_file():
            tables = {name: FINER_TYPE for name in tensor_types(plain) if name in TABLES}
            _make(source, finer, FINER_FILE, importance, tables, matrix, threads)


def _make(
    source: Path,
    out: Path,
    file_type: int,
    importance: Path | None,
    types: dict[str, int],
    facts: dict[str, int],
    threads: int,
) -> None:
    started = time.perf_counter()
    quantize(source, out, file_type, importance, types, threads)
    how = "llama-quantize"
    if importance:
        how += " --imatrix"
    if types and file_type == FINER_FILE:
        how += " --tensor-type for the tables too"
    elif types:
        how += " --tensor-type, each as in plain rounding"
    record = {
        **facts,
        "seconds": round(time.perf_counter() - started, 1),
        "tool_command": f"{how} {NAMES[file_type].upper()}",
    }
    put(out.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
