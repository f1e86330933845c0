"""What lies behind an exception in a stage: a full disk, or something that took files away while it ran.

Libraries tell of both in exceptions of their own (safetensors' has no common base with OSError), or fail later by what
they then compute.
"""

import errno
from collections.abc import Iterable
from pathlib import Path

from edgedistill.errors import RunError
from edgedistill.store.marks import StageResult, missing
from edgedistill.store.stage_folder import StageFolder

FULL = (errno.ENOSPC, errno.EDQUOT)
# As the C library, Rust and Python write it.
FULL_WORDS = ("No space left on device", "os error 28", "Errno 28", "Disk quota exceeded")


def is_full(error: BaseException) -> bool:
    """Whether an exception, or one that it came from, is of a full disk."""
    while True:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(words in str(error) for words in FULL_WORDS):
            return True
        before = error.__cause__ or error.__context__
        if before is None:
            return False
        error = before


def stage_failure(error: Exception, folder: StageFolder, results: Iterable[StageResult]) -> RunError | None:
    """The sentence for an exception in a stage; None where nothing on the disk explains it.

    Args:
        error: what was raised.
        folder: the stage's.
        results: all stages that it may have read.
    """
    if is_full(error):
        return RunError(
            f"stage {folder.name}: the disk is full. Free some, then run the same command to go on from here."
        )
    for result in results:
        trouble = missing(result.path, result.mark)
        if trouble:
            return RunError(
                f"stage {folder.name}: {result.path} was changed while it ran ({trouble}). Run the same command again, "
                "which makes it anew."
            )
    if not (folder.partial.is_dir() or folder.final.is_dir()):
        return RunError(f"stage {folder.name}: its folder was removed while it ran. Run the same command again.")
    return None


def folder_failure(error: OSError, run: Path) -> RunError | None:
    """The sentence for an error of the system about a file of a run; None for one about another file."""
    if is_full(error):
        return RunError(f"{run}: the disk is full. Free some, then run the same command to go on from here.")
    if error.filename is None:
        return None
    file = Path(str(error.filename))
    if run not in (file, *file.parents):
        return None
    if isinstance(error, FileNotFoundError):
        return RunError(f"{file}: it was removed while it was needed. Run the same command again, which makes it anew.")
    return RunError(f"{file}: the system refuses it ({error.strerror}); look at the folder's permissions and its disk.")
