"""`edgedistill doctor`: what is installed, what is missing, and the line that installs it. Imports nothing that it
checks.
"""

import importlib.metadata
import json
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from edgedistill.cli.page import page

# Package -> least version, first version too new ("" for none), the extra that brings it ("" for all installs), what it
# is for.
PACKAGES: dict[str, tuple[str, str, str, str]] = {
    "torch": ("2.13", "2.14", "", "training"),
    "transformers": ("5.20", "6", "", "loading teachers"),
    "tokenizers": ("0.22", "", "", "tokenizing"),
    "safetensors": ("0.5", "", "", "checkpoints"),
    "gguf": ("0.19", "", "", "GGUF files"),
    "llama-cpp-python": ("0.3.36", "", "", "running GGUF files"),
    "huggingface-hub": ("1", "", "", "fetching teachers"),
    "pyarrow": ("15", "", "", "prompts in Parquet files"),
    "onnx": ("1.23", "", "onnx", "ONNX export"),
    "onnxruntime": ("1.23", "", "onnx", "running ONNX files"),
    "llguidance": ("1.3", "", "serve", "answers that follow a JSON schema"),
    "uvicorn": ("0.22", "", "serve", "serving GGUF files"),
}
COMPILERS = ("c++", "g++", "clang++")
# What the inner loops of llama.cpp, onnxruntime and torch use where they find it.
CPU_FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


@dataclass(frozen=True)
class Check:
    """One thing that was looked for."""

    name: str
    found: str | None
    ok: bool
    needed: bool  # whether its absence makes `doctor` fail
    purpose: str
    fix: str | None  # the line that helps, None where nothing is wrong


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Show what is installed and what is missing, with the line that installs it. Exits 1 when something needed is
    missing.

    \b
    Example: edgedistill doctor
    """
    from edgedistill.show import show_bytes

    checks, machine = all_checks(), machine_figures()
    ok = all(check.ok for check in checks if check.needed)
    if as_json:
        click.echo(json.dumps({"ok": ok, "checks": [asdict(check) for check in checks], "machine": machine}, indent=2))
    else:
        width = max(len(check.name) for check in checks)
        found_width = max(len(check.found or "-") for check in checks)
        for check in checks:
            absent = "MISSING" if check.needed else "absent"
            state = "ok" if check.ok else absent
            page(f"{state:7}  {check.name:{width}}  {check.found or '-':{found_width}}  {check.purpose}")
            if check.fix:
                page(f"{'':9}{'':{width}}  {check.fix}")
        page(f"cores    {machine['cores']}, {machine['cpu']}")
        page(f"flags    {' '.join(machine['cpu_flags']) or 'none that matter'}")
        for line in machine["gpus"] or ["none"]:
            page(f"gpu      {line}")
        page(f"device   {machine['device']}: what --device auto takes")
        page(f"memory   {show_bytes(machine['free_memory_bytes'])} free of {show_bytes(machine['memory_bytes'])}")
        page(f"disk     {show_bytes(machine['free_disk_bytes'])} free here")
    ctx.exit(0 if ok else 1)


def all_checks() -> list[Check]:
    """Python, the packages, and the tools that compile llama.cpp."""
    packages = [_package(name, *entry) for name, entry in PACKAGES.items()]
    # Once llama.cpp is built, its tools are needed no more.
    tools_needed = not next(check.ok for check in packages if check.name == "llama-cpp-python")
    return [
        _python(),
        *packages,
        _tool("C++ compiler", COMPILERS, "g++", tools_needed),
        _tool("cmake", ("cmake",), "cmake", tools_needed),
    ]


def machine_figures() -> dict[str, Any]:
    """Processor, its flags that matter, GPUs and which device is taken, memory and disk in bytes."""
    from edgedistill.machine import free_memory_bytes, machine_facts
    from edgedistill.place import choose_place
    from edgedistill.place.choose import gpu_words
    from edgedistill.place.hardware import this_hardware

    facts, hardware = machine_facts(), this_hardware()
    return {
        "cpu": facts["cpu"],
        "cores": facts["cores"],
        "cpu_flags": cpu_flags(),
        "gpus": [f"cuda:{number}: {gpu_words(gpu)}" for number, gpu in enumerate(hardware.gpus)],
        "device": choose_place("auto", hardware).words(),
        "torch_cuda": hardware.cuda,
        "llama_devices": sorted(hardware.llama),
        "memory_bytes": facts["memory_bytes"],
        "free_memory_bytes": free_memory_bytes(),
        "free_disk_bytes": shutil.disk_usage(Path.cwd()).free,
    }


def cpu_flags() -> list[str]:
    """Those of CPU_FLAGS that this processor has, as far as /proc/cpuinfo tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return []
    present: set[str] = set()
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            present |= set(value.split())
    return [flag for flag in CPU_FLAGS if flag in present]


def _python() -> Check:
    ok = (3, 10) <= sys.version_info[:2] < (3, 14)
    fix = (
        None
        if ok
        else "Install Python 3.10 to 3.13, and make a new virtual environment with it: python3.12 -m venv .venv"
    )
    return Check("python", platform.python_version(), ok, True, "3.10 to 3.13", fix)


def _package(name: str, least: str, below: str, extra: str, purpose: str) -> Check:
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        installed = None
    versions = f">={least}" + (f",<{below}" if below else "")
    ok = (
        installed is not None
        and _numbers(installed) >= _numbers(least)
        and not (below and _numbers(installed) >= _numbers(below))
    )
    # Without the extra, all else works.
    install = f"pip install 'edgedistill[{extra}]'" if extra else f"pip install '{name}{versions}'"
    why = "" if installed is None else f"{name}{versions} is needed. "
    return Check(name, installed, ok, not extra, purpose, None if ok else f"{why}Run: {install}")


def _tool(name: str, commands: tuple[str, ...], package: str, needed: bool) -> Check:
    path = next((path for path in map(shutil.which, commands) if path), None)
    fix = (
        None
        if path
        else f"Run: apt-get install -y {package} (Fedora: dnf install -y {package.replace('g++', 'gcc-c++')})"
    )
    purpose = "compiling llama.cpp" + ("" if needed else ", which is done")
    return Check(name, path, path is not None, needed, purpose, fix)


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 13, 0) of '2.13.0+cpu'; what follows the first part that is no number is left out."""
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
