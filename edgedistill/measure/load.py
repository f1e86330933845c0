"""Packed files in the runtimes that they are measured in."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from edgedistill.config.recipe import SAMPLE_TOKENS, Recipe
from edgedistill.machine import usable_cores
from edgedistill.results.row import LLAMA_CPP
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.onnx import OnnxRuntime


def threads_of(recipe: Recipe) -> int:
    """Threads of every runtime."""
    return recipe.measure.threads or usable_cores()


def context_of(recipe: Recipe, longest: int = 0) -> int:
    """Tokens of context that files are measured with, texts of `longest` tokens among what they read."""
    return max(longest + SAMPLE_TOKENS, recipe.measure.context)


def open_runtime(runtime: str, path: Path, threads: int, context: int, parallel: int = 1) -> Runtime:
    """Load a packed file where it belongs; llama.cpp with room for `parallel` sequences of `context` tokens where many
    are asked for.
    """
    if runtime == LLAMA_CPP:
        return LlamaCpp(path, threads=threads, context=context, parallel=parallel)
    return OnnxRuntime(path, threads=threads)


class LazyRuntime:
    """A runtime that is loaded at its first use: not at all where an earlier start kept every result."""

    def __init__(self, load: Callable[[], Runtime]) -> None:
        self._load = load
        self._model: Runtime | None = None

    def __call__(self) -> Runtime:
        if self._model is None:
            self._model = self._load()
        return self._model

    def __enter__(self) -> "LazyRuntime":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._model is not None:
            self._model.close()
