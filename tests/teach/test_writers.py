"""A teacher's log-probabilities against transformers' own, and the same text for the same seed."""

from pathlib import Path

import pytest
import torch

from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.runtimes.sampling import BatchSettings
from edgedistill.teach.writers import LlamaWriter, open_writer

PROMPTS = [[1, 40, 50, 60], [1, 70], [1, 80, 90, 100, 110, 120]]


@pytest.fixture(scope="module")
def gguf_teacher(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = read_facts(tiny_llama, "tiny").shape
    state = load_model(tiny_llama).state_dict()
    out = tmp_path_factory.mktemp("teacher") / "tiny.gguf"
    return write_gguf(
        float_checkpoint({t.name: state[t.name] for t in shape.tensors()}, "f32"),
        tiny_llama,
        shape,
        out,
        {"name": "tiny"},
    )


def test_log_probabilities_are_the_models_at_every_position(tiny_llama: Path, gguf_teacher: Path):
    model = load_model(tiny_llama)
    with LlamaWriter(gguf_teacher, 1, 64, 2) as writer:
        settings = BatchSettings(1.0, 0.9, stop_ids=[2], top_k=8)
        written = writer.write(PROMPTS, 10, settings, seed=5)
        again = writer.write(PROMPTS, 10, settings, seed=5)
    assert [w.tokens for w in written] == [w.tokens for w in again]
    for prompt, found in zip(PROMPTS, written, strict=True):
        assert found.finish == ("stop" if found.tokens[-1] == 2 else "length")
        with torch.no_grad():
            logits = model(torch.tensor([prompt + found.tokens])).logits[0, :-1]
        expected = torch.log_softmax(logits, -1).topk(8)
        assert found.ids.shape == (len(prompt) + len(found.tokens) - 1, 8)
        assert (found.ids == expected.indices).float().mean() > 0.99
        torch.testing.assert_close(found.log_probs.float(), expected.values, rtol=2e-3, atol=2e-3)


def test_a_working_copy_of_the_teacher_does_not_outlive_the_writer(gguf_teacher: Path, tmp_path: Path):
    with open_writer(gguf_teacher, 1, 64, 2, tmp_path) as writer:
        assert writer.write(PROMPTS[:1], 3, BatchSettings(stop_ids=()), seed=0)[0].tokens
    assert not list(tmp_path.iterdir())
