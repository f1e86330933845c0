"""A kill in the middle of a long computation, at a place that is always the same."""

from edgedistill.progress import QuietProgress


class Killed(QuietProgress):
    """Ends a computation, as Ctrl-C would, once more than so much of it is reported as done."""

    def __init__(self, after: float, reports: bool = False) -> None:
        """Take how much: in the computation's own unit, or in reports of progress whatever they say."""
        super().__init__()
        self.left, self.reports = after, reports

    def advance(self, amount: float, **figures: float) -> None:
        """Count it, or end."""
        self.left -= 1 if self.reports else amount
        if self.left < 0:
            raise KeyboardInterrupt
