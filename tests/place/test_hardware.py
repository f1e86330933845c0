"""What drivers and packages say of the machine: their own texts, as they print them."""

import subprocess
import sys

import pytest

from edgedistill.place import hardware

SMI = """GPU-5a6c2f3e-8a0c-4a5e-9a4c-000000000001, NVIDIA H200, 143771, 143166, 570.86.15, 9.0
GPU-5a6c2f3e-8a0c-4a5e-9a4c-000000000002, Tesla T4, 15360, 14930, 570.86.15, 7.5
GPU-5a6c2f3e-8a0c-4a5e-9a4c-000000000003, NVIDIA GB10, [N/A], [N/A], 580.95.05, 12.1
"""
VERSION = "NVRM version: NVIDIA UNIX {}  535.161.08  Release Build\nGCC version:  gcc version 12.3.0\n"
INFORMATION = (
    "Model: \t\t NVIDIA A100-SXM4-80GB\nIRQ:   \t\t 512\nGPU UUID: \t GPU-1234\nBus Location: \t 0000:07:00.0\n"
)


def test_nvidia_smi_says_memory_driver_and_what_multiplies_bfloat16():
    gpus = [gpu for _, gpu in hardware.parse_query(SMI)]
    assert [gpu.name for gpu in gpus] == ["NVIDIA H200", "Tesla T4", "NVIDIA GB10"]
    assert [gpu.bfloat16 for gpu in gpus] == [True, False, True]
    assert gpus[0].memory_bytes == 143771 * 2**20
    assert gpus[0].free_bytes == 143166 * 2**20
    assert (gpus[2].memory_bytes, gpus[2].free_bytes) == (None, None)  # memory that the processor shares
    assert {gpu.driver for gpu in gpus} == {"570.86.15", "580.95.05"}


def test_an_answer_that_is_no_table_lists_no_gpu():
    assert hardware.parse_query("No devices were found\n") == []


@pytest.mark.parametrize("module", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_the_systems_files_name_gpus_and_driver_where_there_is_no_nvidia_smi(tmp_path, module):
    card = tmp_path / "gpus" / "0000:07:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text(INFORMATION)
    (tmp_path / "version").write_text(VERSION.format(module))
    ((uuid, gpu),) = hardware.proc_gpus(tmp_path)
    assert (uuid, gpu.name, gpu.driver, gpu.memory_bytes) == ("GPU-1234", "NVIDIA A100-SXM4-80GB", "535.161.08", None)


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        (None, ["NVIDIA H200", "Tesla T4", "NVIDIA GB10"]),
        ("", []),
        ("1,0", ["Tesla T4", "NVIDIA H200"]),
        ("GPU-5a6c2f3e-8a0c-4a5e-9a4c-000000000002", ["Tesla T4"]),
        ("0,7,1", ["NVIDIA H200"]),  # CUDA ends at the first that isn't there
        ("GPU-5a6c", []),  # several begin so
    ],
)
def test_torch_numbers_the_gpus_that_cuda_visible_devices_leaves(setting, names):
    assert [gpu.name for gpu in hardware.visible(hardware.parse_query(SMI), setting)] == names


def test_the_build_is_read_as_torch_itself_says_it():
    import torch

    assert hardware.torch_version() == torch.__version__
    assert hardware.torch_cuda() == torch.version.cuda


def test_a_cuda_build_of_torch_is_recognized(tmp_path, monkeypatch):
    (tmp_path / "version.py").write_text("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip = None\n")
    monkeypatch.setattr(hardware, "_package", lambda name: tmp_path)
    assert hardware.torch_cuda() == "13.0"


def test_llama_cpp_is_built_for_what_its_libraries_are(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "_package", lambda name: tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libggml-cpu.so").touch()
    assert hardware.llama_backends() == frozenset()
    (tmp_path / "lib" / "libggml-cuda.so").touch()
    assert hardware.llama_backends() == {"cuda"}


def test_the_installed_llama_cpp_says_the_same_of_itself():
    program = "import llama_cpp.llama_cpp as lib; print(lib.llama_supports_gpu_offload())"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert answer.stdout.split()[-1] == str(bool(hardware.llama_backends()))
