"""torch set up for a place, before anything is computed there."""

import os

from edgedistill.errors import InputError
from edgedistill.place.choose import Place


def begin(place: Place) -> None:
    """Make a GPU compute the same bits each time, in the precision that is asked for; nothing for the processor.

    Sums must not depend on the order in which threads finish, or a killed run would end with other weights than one
    that wasn't: deterministic algorithms, with cuBLAS's workspace fixed. TF32 would cut float32 to 11 significant bits,
    and float16-sized partial sums would cut those of bfloat16 products.

    Raises:
        InputError: torch finds no such device after all.
    """
    if not place.on_gpu:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    import torch

    if place.device == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("device is 'mps', and torch finds no Apple GPU; choose cpu")
        return
    number = int(place.device.partition(":")[2])
    if not torch.cuda.is_available() or number >= torch.cuda.device_count():
        raise InputError(
            f"device is '{place.device}', and torch finds {torch.cuda.device_count()} CUDA devices: its CUDA "
            f"{torch.version.cuda} may need a newer driver, or CUDA_VISIBLE_DEVICES hides it. Update the driver, or "
            "choose cpu."
        )
    torch.cuda.set_device(number)
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
