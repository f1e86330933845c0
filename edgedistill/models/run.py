"""A run folder of ours as a model: the float student that it made, before any rounding. No torch."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from edgedistill.errors import InputError, RunError
from edgedistill.store.marks import MARK, difference, read_mark
from edgedistill.store.run import RUN, RunFolder

STUDENTS = ("distill", "student")  # the stages whose folder is a float student


@dataclass(frozen=True)
class RunStudent:
    """What a run says of its float student."""

    folder: Path
    name: str
    license: str | None
    license_text: str | None


def student_of(path: Path) -> RunStudent | None:
    """The float student of a run folder; None where `path` is no run folder.

    Raises:
        InputError: the run isn't that far, or its student is damaged.
    """
    if not (path / RUN).is_file():
        return None
    run = RunFolder.find(path)
    stage = next((s for s in STUDENTS if s in run.current and (run.stages / run.current[s] / MARK).is_file()), None)
    if stage is None:
        raise InputError(
            f"{path}: the run isn't that far: it has no float student yet (stage {' or '.join(STUDENTS)}). "
            "Run its command again until it "
            "has, or name the model itself."
        )
    folder = run.stages / run.current[stage]
    try:
        trouble = difference(folder, read_mark(folder / MARK))
    except RunError as error:
        trouble = str(error)
    if trouble:
        raise InputError(
            f"{path}: the run's float student isn't whole ({trouble}). Run its command again, which makes it anew."
        )
    return RunStudent(folder, _name(run, stage), *_license(path))


def _name(run: RunFolder, stage: str) -> str:
    """What the run's files are called after: the teacher, with the layers that were kept of it."""
    source = str(run.identity.get("teacher") or run.path.name)
    name = re.sub(r"^pypi:", "", source.rstrip("/")).rsplit("/", 1)[-1].removesuffix(".gguf")
    if stage == "student":
        return name
    try:
        layers = json.loads((run.stages / run.current[stage] / "config.json").read_text(encoding="utf-8"))[
            "num_hidden_layers"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return name
    return f"{name} {layers} layers" if isinstance(layers, int) else name


def _license(path: Path) -> tuple[str | None, str | None]:
    """The teacher's licence by the run's report, and its text in the run's bundle; None where the run hasn't come to
    that.
    """
    try:
        found = json.loads((path / "report.json").read_text(encoding="utf-8"))["provenance"]["license"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        found = None
    text = path / "bundle" / "LICENSE"
    return found if isinstance(found, str) else None, text.read_text(
        encoding="utf-8", errors="replace"
    ) if text.is_file() else None
