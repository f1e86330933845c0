"""What in a run folder is ours, by its name. Links and special files there are refused, and nothing else is removed.

A run folder may come from somebody else: a link in it would lead our writing, our lock or our removal anywhere.
"""

import os
import re
import stat
from pathlib import Path

from edgedistill.errors import InputError

STAGES = "stages"
FINAL = re.compile(r"([^.].*)-([0-9a-f]{12})")
PARTIAL = re.compile(r"\.(.+)-([0-9a-f]{12})\.partial")
REMOVED = re.compile(r"\.(.+)-([0-9a-f]{12})\.removed")
_BESIDE = re.compile(r"\.(.+-[0-9a-f]{12})\.(origin|journal|seal)\.json")
_BESIDE_TEMPORARY = re.compile(rf"\.{_BESIDE.pattern}\.\d+\.tmp")


def is_beside(name: str) -> bool:
    """Whether a name in stages/ is of a file that we keep beside a stage at work, or of what a killed writer left of
    one.
    """
    return any(pattern.fullmatch(name) for pattern in (_BESIDE, _BESIDE_TEMPORARY))


def refuse_links(run: Path) -> None:
    """Refuse a run folder with a link or a special file at its top or among its stages; inside of stages, `files_of`
    does.

    Raises:
        InputError: there is one, or the folder can't be read.
    """
    for folder in (run, run / STAGES):
        try:
            with os.scandir(folder) as entries:
                odd = next((entry for entry in entries if not (_is_plain(entry))), None)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InputError(f"{folder}: the folder can't be read ({error.strerror}). Choose another.") from None
        if odd is not None:
            what = "a link" if odd.is_symlink() else "neither a file nor a folder"
            raise InputError(f"{odd.path}: it is {what}, and a run holds files and folders of its own; remove it.")


def open_lock(path: Path) -> int:
    """Open a lock file, made if it isn't there, for reading and writing; never what a link points to.

    Raises:
        InputError: it is no plain file, or the folder can't be written.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise InputError(
            f"{path}: the run can't be locked ({error.strerror}); its folder must be one that can be written."
        ) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path}: it is no plain file, and a run's lock must be one; remove it.")
    return handle


def _is_plain(entry: "os.DirEntry[str]") -> bool:
    return entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False)
