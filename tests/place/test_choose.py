"""What is taken for what was asked, and the sentences that refuse."""

import pytest

from edgedistill.errors import InputError
from edgedistill.place import CPU, Place, choose_place
from edgedistill.place.choose import check_device
from edgedistill.place.hardware import Gpu, Hardware

H200 = Gpu("NVIDIA H200", 140 * 10**9, 139 * 10**9, "570.86.15", bfloat16=True)
T4 = Gpu("Tesla T4", 16 * 10**9, 15 * 10**9, "570.86.15")
TWO = Hardware((H200, T4), torch="2.13.0", cuda="13.0", llama=frozenset({"cuda"}))


def test_auto_is_the_first_gpu_that_torch_can_use_else_the_processor():
    assert choose_place("auto", TWO).device == "cuda:0"
    assert choose_place("auto", Hardware(torch="2.13.0+cpu")) == CPU
    without = choose_place("auto", Hardware((T4,), torch="2.13.0+cpu"))
    assert without.device == "cpu"
    assert without.words().startswith("cpu: the installed torch 2.13.0+cpu was built without CUDA; run: pip install ")


def test_a_gpu_is_named_by_its_number():
    place = choose_place("cuda:1", TWO)
    assert (place.device, place.gpu, place.llama) == ("cuda:1", T4, 1)
    assert place.words() == "cuda:1: Tesla T4, 15.0 GB of 16.0 GB free, driver 570.86.15"
    assert place.facts() == {"device": "cuda:1", "name": "Tesla T4", "memory_bytes": 16 * 10**9, "driver": "570.86.15"}
    assert choose_place("cuda", TWO).device == "cuda:0"
    assert choose_place("cpu", TWO) == Place(chosen=True)


def test_llama_cpp_computes_there_only_where_its_build_can():
    assert choose_place("cuda", Hardware((H200,), torch="2.13.0", cuda="13.0")).llama is None


@pytest.mark.parametrize(
    ("device", "hardware", "message"),
    [
        ("cuda:2", TWO, r"device is 'cuda:2', and there is only cuda:0 \(NVIDIA H200\), cuda:1 \(Tesla T4\); choose"),
        ("cuda", Hardware((H200,), torch="2.13.0+cpu"), r"'cuda', and the installed torch 2.13.0\+cpu was built with"),
        ("cuda", Hardware(torch="2.13.0", cuda="13.0"), "no NVIDIA driver with a GPU answers here, though the inst"),
        ("cuda", Hardware(torch="2.13.0+cpu"), "no NVIDIA driver with a GPU answers here; install the driver"),
        ("mps", TWO, "device is 'mps', which is the GPU of a Mac with Apple silicon, and this machine is none"),
    ],
)
def test_a_device_that_isnt_there_is_refused_with_what_to_do(device, hardware, message):
    with pytest.raises(InputError, match=message) as refusal:
        choose_place(device, hardware)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "CUDA", "", "cuda:1234", "auto "])
def test_other_words_are_no_devices(device):
    with pytest.raises(ValueError, match="it must be auto, cpu, cuda, cuda:N"):
        check_device(device)


def test_auto_computes_in_bfloat16_where_the_gpu_does():
    h200, t4 = choose_place("cuda:0", TWO), choose_place("cuda:1", TWO)
    assert (h200.compute_of("auto"), t4.compute_of("auto"), CPU.compute_of("auto")) == ("bfloat16", "float32", "auto")
    assert h200.compute_of("float32") == "float32"
