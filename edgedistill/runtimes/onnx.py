"""An ONNX folder in onnxruntime, on the CPU, in a child process of its own."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgedistill.errors import InputError
from edgedistill.runtimes.base import Runtime, plain_choices


class OnnxRuntime(Runtime):
    """`with OnnxRuntime(Path("bundle/onnx")) as model: model.logits(...)`. One sequence at a time."""

    def __init__(self, folder: Path, threads: int = 2, context: int | None = None) -> None:
        """Load the folder, or the folder around a graph: `x` and `x/onnx/model_q4.onnx` mean the same.

        `context` None takes what the model was trained for, in tokens.

        Raises:
            InputError: the folder is incomplete, holds several graphs, or its graph isn't a decoder with a cache.
            RunError, RuntimeDiedError: onnxruntime refuses the graph or dies of it.
        """
        root, graph = find_graph(Path(folder))
        if importlib.util.find_spec("onnxruntime") is None:
            raise InputError(
                f"{folder}: ONNX needs onnxruntime, which is not installed. Run: pip install 'edgedistill[onnx]'"
            )
        super().__init__(
            "edgedistill.runtimes.onnx_worker",
            root,
            threads,
            {"graph": str(graph.relative_to(root)), "context": context},
        )

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_new: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop_ids: Sequence[int] | None = (),
    ) -> list[int]:
        """See `Runtime.generate`."""
        if max_new < 1:
            raise InputError(f"max_new is {max_new}; it must be at least 1")
        return list(
            self._child.call(
                "generate",
                prompt=list(map(int, prompt_ids)),
                max_new=max_new,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                stop_ids=None if stop_ids is None else list(stop_ids),
            )[0]
        )

    def choice_log_probs(
        self, choices: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]
    ) -> Iterator[list[float]]:
        """See `Runtime.choice_log_probs`. A prompt is read once for all its options."""
        for log_probs, _ in self._child.stream("choice_log_probs", choices=plain_choices(choices)):
            yield log_probs


def find_graph(path: Path) -> tuple[Path, Path]:
    """The model's folder and its graph.

    Raises:
        InputError: there is none, or more than one to choose from.
    """
    if path.suffix == ".onnx" and path.is_file():
        return (path.parent.parent if path.parent.name == "onnx" else path.parent), path
    graphs = sorted((path / "onnx").glob("*.onnx"))
    if len(graphs) == 1:
        return path, graphs[0]
    if graphs:
        names = ", ".join(graph.name for graph in graphs)
        raise InputError(f"{path}: onnx/ holds {names}; name one of them instead of the folder")
    raise InputError(
        f"{path}: there is no onnx/*.onnx in it; name a folder with config.json, tokenizer.json and onnx/model_q4.onnx"
    )
