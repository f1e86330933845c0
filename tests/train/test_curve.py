"""Which validation is the best where one source decides: a narrow task wins what general text loses."""

from edgedistill.train.curve import TrainingCurve
from edgedistill.train.validation import ValidationLoss


def curve_of(*losses: tuple[float, float], decides: tuple[str, ...] = ()) -> TrainingCurve:
    """Validations of a task and of prose, one after the other."""
    curve = TrainingCurve(decides=decides)
    for step, (task, prose) in enumerate(losses):
        curve.add_validation(step, 10 * step, ValidationLoss((task + prose) / 2, {"written": task, "prose": prose}))
    return curve


LOSSES = ((2.0, 4.0), (0.5, 3.9), (0.1, 4.1), (0.2, 4.2))


def test_the_worst_source_decides_unless_one_is_named():
    assert curve_of(*LOSSES).best.step == 1
    assert curve_of(*LOSSES, decides=("written",)).best.step == 2


def test_a_source_that_is_not_there_decides_nothing():
    assert curve_of(*LOSSES, decides=("free",)).best.step == 1


def test_whether_a_validation_is_the_best_so_far_is_told_by_the_same_rule():
    curve = curve_of(*LOSSES[:2], decides=("written",))
    assert curve.add_validation(2, 20, ValidationLoss(2.1, {"written": 0.1, "prose": 4.1}))
    assert not curve.add_validation(3, 30, ValidationLoss(2.0, {"written": 0.2, "prose": 3.8}))
