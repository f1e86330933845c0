"""A loss by name: the defaults of its settings, and what is said of names, settings and teachers that don't fit."""

import pytest
import torch

from edgedistill.errors import InputError
from edgedistill.losses.choose import LOSSES, make_loss
from edgedistill.losses.teachers import ExactTeacher, LiveLogits, TopKTeacher, WrittenText

FULL = LiveLogits(torch.tensor([[1.0, 2.0, -1.0]]))
TOP_K = TopKTeacher(torch.tensor([[1]]), torch.tensor([[-0.5]]))
TEXT = WrittenText(torch.tensor([2]))
STUDENT = torch.tensor([[0.5, -0.5, 1.0]])


def value(name, teacher, **settings):
    return make_loss(name, teacher, **settings).loss_and_grad(STUDENT.clone(), 0)[0].item()


@pytest.mark.parametrize("name", LOSSES)
def test_every_name_makes_a_loss_above_zero(name):
    for teacher in (
        [TEXT] if name == "cross_entropy" else [FULL, TOP_K, ExactTeacher(torch.ones(1, 2), torch.randn(3, 2))]
    ):
        assert value(name, teacher) > 0


@pytest.mark.parametrize(
    ("name", "defaults"),
    [("jsd", {"beta": 0.5}), ("skew_kl", {"alpha": 0.1}), ("skew_reverse_kl", {"alpha": 0.1}), ("tvd", {})],
)
def test_defaults_are_those_of_the_papers(name, defaults):
    assert value(name, FULL) == value(name, FULL, temperature=1.0, **defaults)
    assert value(name, TOP_K) == value(name, TOP_K, temperature=1.0, **defaults)


@pytest.mark.parametrize(
    ("name", "teacher", "settings", "words"),
    [
        (
            "skew-kl",
            FULL,
            {},
            "the loss is 'skew-kl'; it must be one of forward_kl, .*, cross_entropy. Did you mean 'skew_kl'?",
        ),
        ("jsd", FULL, {"alpha": 0.5}, "loss jsd has no setting 'alpha'; it has beta and temperature."),
        ("cross_entropy", TEXT, {"temperature": 2.0}, "loss cross_entropy has no setting 'temperature'; it has none."),
        ("jsd", FULL, {"beta": 1.0}, "loss jsd: beta is 1.0; it must be above 0 and below 1. Use reverse_kl instead."),
        ("jsd", FULL, {"beta": 0.0}, "below 1. Use forward_kl instead."),
        ("skew_kl", FULL, {"alpha": 0.0}, "Use forward_kl instead."),
        ("skew_reverse_kl", FULL, {"alpha": 0.0}, "Use reverse_kl instead."),
        ("skew_kl", FULL, {"alpha": 1.0}, r"loss skew_kl: alpha is 1.0; it must be above 0 and below 1\.$"),
        ("skew_kl", FULL, {"alpha": float("nan")}, "alpha is nan"),
        ("tvd", FULL, {"temperature": 0.0}, "loss tvd: temperature is 0.0; it must be above 0."),
        ("tvd", FULL, {"temperature": float("nan")}, "temperature is nan"),
        (
            "tvd",
            TOP_K,
            {"temperature": 2.0},
            "temperature is 2.0; it must be 1.0 for a teacher of whom only the likeliest words are known, .* is not. "
            "Compare these words alone instead: outcomes: renormalized.",
        ),
        (
            "forward_kl",
            TEXT,
            {},
            "loss forward_kl compares with a teacher's probabilities, and was given a WrittenText.",
        ),
        ("cross_entropy", TOP_K, {}, "loss cross_entropy compares with the written text, and was given a TopKTeacher."),
    ],
)
def test_what_does_not_fit_is_named(name, teacher, settings, words):
    with pytest.raises(InputError, match=words):
        make_loss(name, teacher, **settings)
