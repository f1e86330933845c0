"""A budget of 0 tokens, a layer in memory at a time, against the whole model placed on its grid and not trained."""

import pytest
import torch

from edgedistill.config import Recipe
from edgedistill.data.example import Example, counted_from
from edgedistill.mixes import Mix, assign_formats
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.recover.mix_training import RecoverInputs, recover
from edgedistill.signals.shards import load_sources
from edgedistill.teach.capture import CaptureSettings, capture, load_importance
from tests.tiny import make_tiny


def documents(seed: int, count: int) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    return [counted_from(torch.randint(3, 300, (32,), generator=generator, dtype=torch.int32)) for _ in range(count)]


@pytest.mark.parametrize(
    ("family", "mix", "settings"),
    [
        ("llama", "q4_0", {}),
        ("qwen2", "q4_0", {"train": ["weights", "scales", "norms"]}),
        ("gemma3_text", "q5_1", {"train": ["weights"], "fit": "ggml"}),
        ("mistral", "q8_0", {"fit": "ggml"}),
        ("llama", "q4_0", {"low_rank": 4}),
    ],
)
def test_its_files_are_those_of_a_training_without_steps(family, mix, settings, tmp_path):
    student = make_tiny(family, tmp_path / family)
    splits = [("train", documents(1, 12)), ("validation", documents(2, 8)), ("prose-validation", documents(3, 4))]
    captured = tmp_path / "captured"
    captured.mkdir()
    capture(student, splits, CaptureSettings(64, "float32", ()), captured, QuietProgress())
    asked = {"tokens": 0, "tokens_by_mix": {}, "seq_len": 64, "batch_tokens": 128, "fit": "importance", **settings}
    recipe = Recipe.model_validate({"schema": "edgedistill.recipe/1", "name": "mine", "recover": asked})
    formats = assign_formats(read_facts(student, "tiny").shape, Mix(mix, mix))
    costs = load_importance(captured) if recipe.recover.fit == "importance" else None

    def files(name: str, start: dict[str, torch.Tensor] | None) -> list[bytes]:
        work = tmp_path / name
        work.mkdir()
        validation, decides = load_sources(captured, "validation"), ("prose",) if family == "qwen2" else ()
        training = splits[0][1]  # a training packs its text, also for no step
        inputs = RecoverInputs(student, training, validation, costs, mix, formats, start, decides=decides)
        recover(inputs, recipe.recover, work, QuietProgress())
        assert not (work / "fit").exists()
        return [(work / file).read_bytes() for file in ("grid.safetensors", "curve.json")]

    # With weights to start from the whole model is loaded.
    whole = {name: t for name, t in load_model(student).state_dict().items() if name in formats}
    ours, theirs = files("ours", None), files("theirs", whole)
    assert ours == theirs
