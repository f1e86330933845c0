"""What a student's folder says of itself: `student.json`, and the licence's text beside it. No torch.

Name, licence, tokenizer and template of everything after it come from the student's folder, never from the teacher.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from edgedistill.errors import InputError

IDENTITY, LICENSE, LAYERS = "student.json", "LICENSE", "layers.json"
KEPT_TOKENS = "tokens.json"  # of a student with fewer tokens than its teacher: whose they are
SCHEMA = "edgedistill.student/1"


@dataclass(frozen=True)
class Identity:
    """What a student is called, its licence by its SPDX name (None if unknown), and its kind; the system message that
    all chats began with which the model that it was made from was trained on, where there was one; whether its tables
    aren't its teacher's but cut or projected from them, so that training must move them too; and what a run's student
    was made from, the oldest first.
    """

    name: str
    license: str | None
    kind: str
    system: str | None = None
    new_tables: bool = False
    lineage: tuple[str, ...] = ()


def write_identity(identity: Identity, license_text: str | None, folder: Path) -> None:
    """Say in a student's folder what it is."""
    entries = {"schema": SCHEMA, **asdict(identity)}
    if identity.system is None:
        del entries["system"]
    if not identity.new_tables:
        del entries["new_tables"]
    if not identity.lineage:
        del entries["lineage"]
    text = json.dumps(entries, indent=1)
    (folder / IDENTITY).write_text(text + "\n", encoding="utf-8")
    if license_text is not None:
        (folder / LICENSE).write_text(license_text, encoding="utf-8")


def read_identity(folder: Path) -> Identity:
    """What a student's folder says.

    Raises:
        InputError: it says nothing, or something else.
    """
    path = folder / IDENTITY
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if entries["schema"] != SCHEMA:
            raise InputError(f"{path}: schema is {entries['schema']!r}; this version reads {SCHEMA!r}")
        stated = {key: entries[key] for key in ("system", "new_tables") if key in entries}
        lineage = tuple(map(str, entries.get("lineage", ())))
        return Identity(str(entries["name"]), entries["license"], str(entries["kind"]), **stated, lineage=lineage)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: it doesn't say what the student is ({error}); run its command again") from None


def copy_identity(student: Path, folder: Path) -> None:
    """Copy what a student's folder says of itself to that of the student after training."""
    for name in (IDENTITY, LICENSE, LAYERS, KEPT_TOKENS):
        if (student / name).is_file():
            shutil.copyfile(student / name, folder / name)
