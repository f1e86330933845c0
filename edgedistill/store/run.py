"""A run: one folder, one teacher, stages that are built once and found again by the hash of all they depend on.

RUN/run.json                             what the run is for, and which stage folders its results come from
RUN/stages/distill-0123456789ab/         a finished stage; stage_folder.py says what lies beside one at work
RUN/.lock                                held (flock) by the process at work; the system frees it when that dies
"""

import contextlib
import fcntl
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError, RunError
from edgedistill.store.failures import folder_failure, stage_failure
from edgedistill.store.marks import MARK, StageResult, StageSpec, read_mark
from edgedistill.store.own import STAGES, open_lock, refuse_links
from edgedistill.store.stage_folder import StageFolder
from edgedistill.store.whole import TEMPORARY, write_json

RUN = "run.json"
SCHEMA = "edgedistill.run/1"
LOCK = ".lock"
STAGE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")


@dataclass
class RunFolder:
    """A run folder. Make one with `open` (to work in it) or `find` (to look at it)."""

    path: Path
    identity: dict[str, Any]
    current: dict[str, str]  # stage name -> folder name
    on_event: Callable[[str], None] = _to_stderr
    _locked: bool = field(default=False, repr=False)
    _results: list[StageResult] = field(default_factory=list, repr=False)  # of this process, which later stages read

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any], on_event: Callable[[str], None] = _to_stderr) -> "RunFolder":
        """The run in a folder, made if there is none yet.

        Args:
            path: a run of the same teacher, an empty folder, or one that doesn't exist.
            identity: what the run is for; JSON types. `identity["teacher"]` tells whether a folder's run is this one.
            on_event: told when something on disk is damaged and is built again. Default: stderr.
        Raises:
            InputError: as `check`, or the folder can't be made.
            RunError: it can't be written.
        """
        cls.check(path, identity)
        if (path / RUN).exists():
            run = cls.find(path, on_event)
            run.identity = dict(identity)
            return run
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: the folder cannot be made ({error.strerror}). Choose another.") from None
        run = cls(path, dict(identity), {}, on_event)
        run._write()
        return run

    @classmethod
    def check(cls, path: Path, identity: Mapping[str, Any]) -> None:
        """Refuse a folder that `open` would refuse for what is in it; nothing is made or written.

        Raises:
            InputError: the path is a file, or the folder holds something else or a run of another teacher.
        """
        if (path / RUN).exists():
            theirs, ours = cls.find(path).identity.get("teacher"), identity["teacher"]
            if theirs != ours:
                raise InputError(f"{path} holds a run of the model {theirs!r}, not of {ours!r}. Choose another folder.")
            return
        try:
            others = [entry.name for entry in path.iterdir() if not _is_ours(entry)]
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise InputError(f"{path} is a file; the run needs a folder. Choose another.") from None
        except OSError as error:
            raise InputError(f"{path}: the folder cannot be read ({error.strerror}). Choose another.") from None
        if others:
            raise InputError(
                f"{path} holds files of something else, such as {min(others)!r}. Choose another folder, or an "
                "empty one."
            )

    @classmethod
    def find(cls, path: Path, on_event: Callable[[str], None] = _to_stderr) -> "RunFolder":
        """The run that is in a folder.

        Raises:
            InputError: there is none, its run.json can't be read, or it holds links.
        """
        refuse_links(path)
        try:
            content = json.loads((path / RUN).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            if not path.exists():
                raise InputError(f"{path}: there is no such folder; name a run folder.") from None
            raise InputError(
                f"{path} is not a run folder: it has no {RUN}. Name one that `edgedistill compile -o` made."
            ) from None
        except (OSError, ValueError, RecursionError):
            raise InputError(f"{path / RUN} cannot be read as JSON. Choose another folder.") from None
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise InputError(
                f"{path / RUN} has no schema {SCHEMA}: it is of another program or version. Choose another folder."
            )
        identity, current = content.get("identity"), content.get("current")
        if not isinstance(identity, dict) or not isinstance(current, dict):
            raise InputError(f"{path / RUN} lacks its identity or its list of stages. Choose another folder.")
        # A name from the file becomes a path: one that isn't a plain folder name is dropped.
        plain = {str(k): v for k, v in current.items() if isinstance(v, str) and STAGE_NAME.fullmatch(v)}
        return cls(path, identity, plain, on_event)

    @property
    def stages(self) -> Path:
        """The folder of the stages."""
        return self.path / STAGES

    def folder_of(self, name: str, key: str) -> Path:
        """Where a stage of a name and a key lies, or would."""
        return self.stages / f"{name}-{key[:12]}"

    def holds(self, name: str, key: str) -> bool:
        """Whether a finished stage of this name and key is there; its files aren't read."""
        try:
            mark = read_mark(self.folder_of(name, key) / MARK)
        except RunError:
            return False
        return mark.key == key

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of the run folder. Freed at the end, also by a kill.

        Raises:
            InputError: a process works in it already, which is named; or the folder can't be written.
            RunError: a file of the run was removed meanwhile, or can't be written.
        """
        handle = open_lock(self.path / LOCK)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 32).decode(errors="replace").strip()
                who = f"process {holder}" if holder.isdigit() else "another process"
                raise InputError(
                    f"{self.path} is in use: {who} works in it. Wait until it ends, or choose another folder."
                ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            self._locked = True
            self._reread()
            yield
        except OSError as error:
            failure = folder_failure(error, self.path)
            if failure is None:
                raise
            raise failure from error
        finally:
            self._locked = False
            os.close(handle)

    def stage(
        self,
        name: str,
        settings: Mapping[str, Any],
        inputs: Sequence[StageResult] = (),
        outside: Mapping[str, str] | None = None,
        *,
        build: Callable[[Path], None],
        place: Mapping[str, Any] | None = None,
    ) -> StageResult:
        """The stage's result: found where it was built before, otherwise built now.

        Args:
            name: small letters, digits, points and dashes, such as "recover-q4_0".
            settings: all that decides the output beside the inputs; JSON types.
            inputs: the stages that it reads.
            outside: content hashes of the files outside the run that it reads, by a name for each.
            build: writes the output into the folder that it is given. After a kill it is called again with what it left
                there.
            place: the device that it computes on, for its mark; JSON types.
        Raises:
            RunError: the disk is full, or something removed files of a stage meanwhile. What else `build` raises passes
                through, and its folder stays for the next start.
        """
        if not self._locked:
            raise RuntimeError("RunFolder.stage needs the lock: `with run.lock():`")
        if not STAGE_NAME.fullmatch(name):
            raise ValueError(f"stage name {name!r} must match {STAGE_NAME.pattern}")
        spec = StageSpec.of(name, settings, inputs, dict(outside or {}))
        folder = StageFolder(self.stages, self.folder_of(name, spec.key).name)
        mark = folder.find(spec, self.on_event)
        reused = mark is not None
        if mark is None:
            try:
                mark = folder.build(spec, build, place)
            except Exception as error:
                failure = stage_failure(error, folder, self._results)
                if failure is None:
                    raise
                raise failure from error
        self.current[name] = folder.name
        self._write()
        result = StageResult(name, spec.key, folder.final, reused, mark)
        self._results.append(result)
        return result

    def set_current(self, results: Sequence[StageResult]) -> None:
        """Say which stages the run's results come from: all others may be cleaned away."""
        self.current = {result.name: result.path.name for result in results}
        self._write()

    def _reread(self) -> None:
        """Take over what another process did to run.json before we had the lock, and put our identity there."""
        if (self.path / RUN).exists():
            on_disk = RunFolder.find(self.path)
            self.current = on_disk.current
            if on_disk.identity != self.identity:
                self._write()

    def _write(self) -> None:
        write_json(self.path / RUN, {"schema": SCHEMA, "identity": self.identity, "current": self.current})


def _is_ours(entry: Path) -> bool:
    """Whether an entry of a new run's folder is the lock, or what a killed start left of run.json."""
    return entry.name == LOCK or (entry.name.startswith(f".{RUN}.") and entry.suffix == TEMPORARY)
