"""The bench of objectives: its variants are recipes, a model is at no distance from itself, intervals are of texts."""

from pathlib import Path

import pytest
import torch
from objectives import Judged, difference, judge, variants

from edgedistill.config import Recipe, load_recipe
from edgedistill.data.example import counted_from


@pytest.mark.parametrize("layers", [3, 27])
def test_every_variant_is_a_phase(layers: int):
    chat = load_recipe("chat").to_dict()
    for name, changes in variants(layers).items():
        on_policy = {"every": 5} if changes.get("on_policy") else None
        phase = chat["phases"][0] | changes | {"on_policy": on_policy}
        recipe = Recipe.model_validate(chat | {"phases": [phase]})
        assert recipe.top_k == 64, f"{name} would have other text than the others"


def test_a_model_is_at_no_distance_from_itself(tiny_llama: Path):
    torch.manual_seed(0)
    texts = [counted_from(torch.randint(3, 300, (n,), dtype=torch.int32), 1) for n in (20, 9, 30)]
    judged = judge(tiny_llama, tiny_llama, texts, 32)
    assert judged.weight == [18, 7, 28]
    assert judged.mean(judged.kl) == pytest.approx(0, abs=1e-6)
    assert judged.mean(judged.agree) == 1
    assert judged.mean(judged.cross_entropy) > 1


def test_a_difference_has_an_interval_over_texts():
    first = Judged([1.0, 2.0, 3.0], [0.0] * 3, [0.0] * 3, [1.0, 1.0, 2.0])
    second = Judged([1.5, 2.5, 4.0], [0.0] * 3, [0.0] * 3, [1.0, 1.0, 2.0])
    assert difference(first, second) == pytest.approx({"kl": 0.5, "low": 0.5, "high": 0.5})
    other = Judged([1.5, 1.0, 4.0], [0.0] * 3, [0.0] * 3, [1.0, 1.0, 2.0])
    found = difference(first, other)
    assert found["low"] < found["kl"] < found["high"]
