"""The GPUs of this machine, and what the installed torch and llama.cpp were built for; none of them is loaded. Bytes.

NVIDIA's driver says what there is through nvidia-smi, or where that isn't installed through /proc/driver/nvidia.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/driver/nvidia")
QUERY = ("uuid", "name", "memory.total", "memory.free", "driver_version", "compute_cap")
QUERY_SECONDS = 20  # a driver that wakes up takes a few
MIB = 2**20
# The first compute capability whose tensor cores multiply in bfloat16: Ampere.
BFLOAT16_FROM = (8, 0)
# In the name of the library with which llama.cpp's build computes on a GPU.
LLAMA_BACKENDS = {"cuda": "ggml-cuda", "mps": "ggml-metal"}


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver describes it; None where the driver doesn't say.

    Attributes:
        name: its product name.
        memory_bytes, free_bytes: its own memory, and what of it no process has.
        driver: the driver's version.
        bfloat16: whether it multiplies matrices in bfloat16.
    """

    name: str
    memory_bytes: int | None = None
    free_bytes: int | None = None
    driver: str | None = None
    bfloat16: bool = False


@dataclass(frozen=True)
class Hardware:
    """What there is to compute on beside the processor.

    Attributes:
        gpus: NVIDIA's, in the order of torch's numbers.
        torch: the installed torch's version; None where there is none.
        cuda: the CUDA release that it was built for; None for a build without CUDA.
        metal: whether this is a Mac with Apple silicon.
        llama: the kinds of devices, "cuda" or "mps", that the installed llama.cpp was built for.
    """

    gpus: tuple[Gpu, ...] = ()
    torch: str | None = None
    cuda: str | None = None
    metal: bool = False
    llama: frozenset[str] = frozenset()


def this_hardware() -> Hardware:
    """This machine's."""
    metal = platform.system() == "Darwin" and platform.machine() == "arm64"
    gpus = visible(nvidia_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")) if has_driver() else ()
    return Hardware(gpus, torch_version(), torch_cuda(), metal, llama_backends())


def has_driver() -> bool:
    """Whether there are signs of NVIDIA's driver; a look at two files."""
    return (PROC / "version").is_file() or shutil.which("nvidia-smi") is not None


def nvidia_gpus() -> list[tuple[str, Gpu]]:
    """NVIDIA's GPUs by their UUID, in the order of their numbers on the bus; none where no driver answers."""
    program = shutil.which("nvidia-smi")
    if program is not None:
        command = [program, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=QUERY_SECONDS)
        except (OSError, subprocess.SubprocessError):
            return []
        return parse_query(answer.stdout)
    return proc_gpus(PROC)


def parse_query(text: str) -> list[tuple[str, Gpu]]:
    """The GPUs of nvidia-smi's answer to QUERY, as CSV without a header; memory is in MiB there."""
    gpus: list[tuple[str, Gpu]] = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(QUERY):
            continue
        uuid, name, total, free, driver, capability = fields
        bfloat16 = _numbers(capability) >= BFLOAT16_FROM
        gpus.append((uuid, Gpu(name, _mebibytes(total), _mebibytes(free), driver, bfloat16)))
    return gpus


def proc_gpus(proc: Path) -> list[tuple[str, Gpu]]:
    """The GPUs that the driver lists in the system's own files, which don't say how much memory they have."""
    release = _read(proc / "version")
    driver = re.search(r"Kernel Module\S*\s+(?:for \S+\s+)?([\d.]+)", release)
    gpus: list[tuple[str, Gpu]] = []
    for path in sorted(proc.glob("gpus/*/information")):
        facts = dict(re.findall(r"^([^:\n]+):\s*(.*?)\s*$", _read(path), flags=re.MULTILINE))
        name = facts.get("Model", "an NVIDIA GPU")
        gpus.append((facts.get("GPU UUID", ""), Gpu(name, driver=driver[1] if driver else None)))
    return gpus


def visible(gpus: Sequence[tuple[str, Gpu]], setting: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order: numbers or the beginnings of UUIDs, up to the first
    that names none.
    """
    if setting is None:
        return tuple(gpu for _, gpu in gpus)
    chosen: list[Gpu] = []
    for word in (part.strip() for part in setting.split(",")):
        if word.isdigit() and int(word) < len(gpus):
            chosen.append(gpus[int(word)][1])
            continue
        named = [gpu for uuid, gpu in gpus if word.startswith("GPU-") and uuid.startswith(word)]
        if len(named) != 1:
            break
        chosen += named
    return tuple(chosen)


def torch_version() -> str | None:
    """The installed torch's version; None where there is none."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_cuda() -> str | None:
    """The CUDA release that torch was built for, as its version.py says; None for a build without."""
    folder = _package("torch")
    match = re.search(r"^cuda\b[^=\n]*=\s*'([\d.]+)'", _read(folder / "version.py") if folder else "", re.MULTILINE)
    return match[1] if match else None


def llama_backends() -> frozenset[str]:
    """The kinds of devices that the installed llama.cpp was built for beside the processor."""
    folder = _package("llama_cpp")
    libraries = [path.name for path in (folder / "lib").glob("*ggml-*")] if folder else []
    return frozenset(kind for kind, part in LLAMA_BACKENDS.items() if any(part in name for name in libraries))


def _package(name: str) -> Path | None:
    """Where a package lies."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _mebibytes(text: str) -> int | None:
    return int(text) * MIB if text.isdigit() else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
