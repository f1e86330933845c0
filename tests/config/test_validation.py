"""How often a training is validated and on how much text: a share of the training, whatever its budget."""

import pytest

from edgedistill.config.phase import Phase
from edgedistill.config.recover import Recover
from edgedistill.config.validation import FEWEST, LEAST_TOKENS, MOST, MOST_TOKENS, plan_validation

READING, TRAINING = 1 / 2, 1  # what a token costs, in tokens of training


@pytest.mark.parametrize("tokens", [20_000, 60_000, 200_000, 400_000, 2_000_000, 100_000_000])
def test_validation_is_about_a_tenth_of_the_training(tokens: int):
    """It was 163 times the training of 100M tokens, since what is held out grows with the data."""
    steps = tokens // 512
    plan = plan_validation(tokens, steps)
    assert FEWEST <= plan.times <= MOST
    assert LEAST_TOKENS <= plan.tokens <= MOST_TOKENS
    assert plan.times * plan.tokens * READING <= 0.105 * tokens * TRAINING
    if tokens >= 400_000:
        assert plan.times >= 30


def test_validations_lie_evenly_and_the_last_one_at_the_end():
    plan = plan_validation(400_000, 781)
    after = plan.steps(781)
    gaps = {later - earlier for earlier, later in zip((0, *after[:-1]), after, strict=True)}
    assert (len(after), after[-1], max(gaps) - min(gaps)) == (plan.times, 781, 1)


def test_a_training_of_few_steps_is_validated_after_each_at_most():
    assert plan_validation(1024, 2).steps(2) == (1, 2)
    assert plan_validation(0, 0).steps(0) == ()
    assert plan_validation(0, 0).tokens > 0  # what is not trained is still compared with plain rounding


def test_settings_tell_their_plan():
    recover = Recover(tokens=200_000)
    assert recover.steps_of(200_000) == 391
    assert recover.validation_of(200_000) == plan_validation(200_000, 391)
    assert Phase().steps_of(0) == 0
