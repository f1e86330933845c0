"""The tiny files of the runtimes' tests."""

from tests.runtimes.conftest import gguf_file, hf_folder

__all__ = ["gguf_file", "hf_folder"]
