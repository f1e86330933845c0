"""Optional packages: imported in the one module that needs them, or an error with the line that installs them."""

import importlib
from types import ModuleType

from edgedistill.errors import InputError


def require(package: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        package: the name to import, such as "onnxruntime".
        extra: edgedistill's extra that brings it, such as "onnx".
        purpose: the start of the sentence when it is missing, such as "ONNX export".
    Raises:
        InputError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package.split(".")[0]:
            raise  # the package is there, something that it needs isn't: the traceback says more than we could
        raise InputError(
            f"{purpose} needs {package}, which is not installed. Run: pip install 'edgedistill[{extra}]'"
        ) from None
