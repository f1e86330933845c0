"""The choice of the one device, without torch: what was asked for, held against what there is."""

import re
from dataclasses import dataclass
from typing import Any

from edgedistill.errors import InputError
from edgedistill.place.hardware import Gpu, Hardware, has_driver, this_hardware
from edgedistill.show import show_bytes

AUTO, CPU_DEVICE, MPS = "auto", "cpu", "mps"
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
ALLOWED = "auto, cpu, cuda, cuda:N (the GPU of number N, from 0) or mps"
CUDA_BUILDS = "pip install --force-reinstall 'torch==2.13.*' --index-url https://download.pytorch.org/whl/cu130"


@dataclass(frozen=True)
class Place:
    """The device that a run computes on.

    Attributes:
        device: torch's word for it: "cpu", "cuda:0", "mps".
        gpu: what it is; None for the processor.
        chosen: whether it was named; else this machine's hardware chose it.
        llama: the GPU's number, where the installed llama.cpp computes on it too.
        why: for the processor where a GPU would have been taken: why it isn't, a clause.
    """

    device: str = CPU_DEVICE
    gpu: Gpu | None = None
    chosen: bool = False
    llama: int | None = None
    why: str | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether it is another device than the processor."""
        return self.device != CPU_DEVICE

    def compute_of(self, setting: str) -> str:
        """A recipe's `compute` on a GPU: auto is bfloat16 where the GPU multiplies matrices in it."""
        if setting != AUTO or not self.on_gpu:
            return setting
        return "bfloat16" if self.gpu is not None and self.gpu.bfloat16 else "float32"

    def facts(self) -> dict[str, Any]:
        """What a completion mark and a report say of it; JSON types."""
        facts: dict[str, Any] = {"device": self.device}
        if self.gpu is None:
            return facts
        known = {"name": self.gpu.name, "memory_bytes": self.gpu.memory_bytes, "driver": self.gpu.driver}
        return facts | {key: value for key, value in known.items() if value is not None}

    def words(self) -> str:
        """'cuda:0: NVIDIA H200, 138 GiB of 140 GiB free, driver 570.86'; for the processor with the reason."""
        if self.gpu is None:
            return self.device if self.why is None else f"{self.device}: {self.why}"
        return f"{self.device}: {gpu_words(self.gpu)}"


CPU = Place()


def gpu_words(gpu: Gpu) -> str:
    """'NVIDIA H200, 138 GiB of 140 GiB free, driver 570.86', as far as it is known."""
    words = [gpu.name]
    if gpu.memory_bytes is not None and gpu.free_bytes is not None:
        words.append(f"{show_bytes(gpu.free_bytes)} of {show_bytes(gpu.memory_bytes)} free")
    if gpu.driver is not None:
        words.append(f"driver {gpu.driver}")
    return ", ".join(words)


def check_device(device: str) -> str:
    """The word for a device, as it is.

    Raises:
        ValueError: there is no such word.
    """
    if DEVICE.fullmatch(device) is None:
        raise ValueError(f"it must be {ALLOWED}")
    return device


def choose_place(device: str, hardware: Hardware | None = None) -> Place:
    """The place for what was asked.

    Args:
        device: "auto" takes the first NVIDIA GPU where there is one that torch can use, else the processor; "cuda" is
            "cuda:0".
        hardware: what there is; None for this machine's.
    Raises:
        InputError: the device isn't here, or torch can't use it.
    """
    if device == CPU_DEVICE:
        return Place(chosen=True)
    if hardware is None and device == AUTO and not has_driver():
        return CPU
    hardware = hardware or this_hardware()
    if device == MPS:
        if not hardware.metal:
            raise InputError(
                "device is 'mps', which is the GPU of a Mac with Apple silicon, and this machine is none; choose auto, "
                "cpu or cuda"
            )
        return Place(MPS, Gpu("Apple GPU"), chosen=True, llama=0 if MPS in hardware.llama else None)
    trouble = _cuda_trouble(hardware)
    if device == AUTO:
        if not hardware.gpus:
            return CPU
        return Place(why=trouble) if trouble else _cuda(hardware, 0, chosen=False)
    if trouble:
        raise InputError(f"device is '{device}', and {trouble}; or choose cpu")
    number = int(device.partition(":")[2] or 0)
    if number >= len(hardware.gpus):
        there = ", ".join(f"cuda:{index} ({gpu.name})" for index, gpu in enumerate(hardware.gpus))
        raise InputError(f"device is '{device}', and there is only {there}; choose one of these, auto or cpu")
    return _cuda(hardware, number, chosen=True)


def _cuda(hardware: Hardware, number: int, chosen: bool) -> Place:
    llama = number if "cuda" in hardware.llama else None
    return Place(f"cuda:{number}", hardware.gpus[number], chosen, llama)


def _cuda_trouble(hardware: Hardware) -> str | None:
    """Why torch can't use an NVIDIA GPU here, a clause with what to do; None where it can."""
    if not hardware.gpus:
        build = f", though the installed torch {hardware.torch} is built for it" if hardware.cuda else ""
        return f"no NVIDIA driver with a GPU answers here{build}; install the driver until nvidia-smi lists the GPU"
    if hardware.torch is None:
        return "torch isn't installed; run: edgedistill doctor"
    if hardware.cuda is None:
        return f"the installed torch {hardware.torch} was built without CUDA; run: {CUDA_BUILDS}"
    return None
