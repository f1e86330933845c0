"""The tiny llama as a float GGUF file."""

from pathlib import Path

import pytest

from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model


@pytest.fixture(scope="session")
def tiny_gguf(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights as they are, in float32."""
    shape = read_facts(tiny_llama, "tiny").shape
    state = load_model(tiny_llama).state_dict()
    weights = {tensor.name: state[tensor.name] for tensor in shape.tensors()}
    path = tmp_path_factory.mktemp("measure") / "tiny.gguf"
    return write_gguf(float_checkpoint(weights, "f32"), tiny_llama, shape, path, {"name": "tiny"})
