"""The error tree. A message says where, what was found, what is allowed and what to do.

Rooms raise these; only cli/ turns them into a line on stderr and an exit code.
"""

import difflib
from collections.abc import Iterable


class EdgeDistillError(Exception):
    """Anything that edgedistill reports in one sentence instead of a traceback."""

    exit_code = 1


class RunError(EdgeDistillError):
    """The run failed: a stage, a runtime or a check of its output. Exit code 1."""


class RuntimeDiedError(RunError):
    """A runtime's child process ended without an answer."""


class LoadError(RunError):
    """A runtime refuses a file that it was given, or dies of it."""


class VerifyError(RunError):
    """An exported file doesn't hold the weights that training saw."""


class InputError(EdgeDistillError):
    """The input is wrong and nothing ran. Exit code 2."""

    exit_code = 2


class DoesNotFitError(EdgeDistillError):
    """The plan is sound, but too big for the device, the memory or the disk. Exit code 3."""

    exit_code = 3


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the nearest allowed word, or an empty string where none is near."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
