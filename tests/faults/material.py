"""What faults are injected into: a tiny model, files made of it, a finished run, and the commands that make them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tests import tiny
from tests.faults.forked import run

E2E = Path(__file__).parents[1] / "e2e"


@dataclass(frozen=True)
class Material:
    """All of it, in one folder.

    Attributes:
        model: a Hugging Face folder.
        gguf: the model as a q8_0 file.
        run: the run folder of a finished compile.
    """

    root: Path
    model: Path
    gguf: Path
    run: Path


def make(root: Path) -> Material:
    """Make what isn't there yet."""
    root.mkdir(parents=True, exist_ok=True)
    material = Material(root, root / "talker", root / "talker-q8_0.gguf", root / "run")
    if not (material.model / "config.json").exists():
        tiny.make_talking_llama(material.model)
    for words in (
        ["export", material.model, "-m", "q8_0", "-o", root, "--name", "talker", "--force"],
        compile_words(material.model, material.run),
    ):
        done = run(words, limit_s=600)
        assert done.code == 0, done.err
    return material


def compile_words(model: Path, out: Path) -> list[object]:
    """A compile of the tiny model."""
    return ["compile", model, "--target", "laptop-cpu", "--recipe", E2E / "recipe.yaml", "-o", out]


def recover_words(model: Path, out: Path) -> list[object]:
    """A recovery."""
    return ["recover", model, "--recipe", E2E / "recover.yaml", "-o", out]


def compare_words(model: Path, out: Path) -> list[object]:
    """A comparison."""
    return ["compare", model, "--recipe", E2E / "compare.yaml", "-o", out]


def export_words(model: Path, out: Path) -> list[object]:
    """An export of several files."""
    return ["export", model, "-m", "q4_0,q8_0,q5_0", "-f", "gguf,onnx", "-o", out]


def weights_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every weight file below a folder, by its path there."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".gguf", ".onnx") and path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
