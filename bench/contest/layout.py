"""The folder that rows come from: which GGUF files are compared, as which tool and mix, and what is known of how each
was made.

    WORK/float/f32.gguf            the float model
    WORK/made/TOOL/MIX.gguf        llama.cpp's own, made by llama_rows.py
    WORK/ours/NAME/MIX.gguf        "edgedistill NAME": fit, 10k, 100k, 400k
    WORK/rivals/NAME/MIX.gguf      another tool's

Beside each may stand MIX.json: an object with `tokens` (trained on), `calibration_tokens`, `seconds`, `command`,
versions and the like. All of it goes into the record.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

FLOAT = "float"


@dataclass(frozen=True)
class Entry:
    """A file to measure. `made` is what stands beside it."""

    tool: str
    mix: str
    path: Path
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its row's name: "edgedistill 10k.q4_0"."""
        return f"{self.tool}.{self.mix}"


def entries(work: Path, given: Sequence[str], only: str) -> list[Entry]:
    """All entries whose name matches the pattern `only`: float first, then by folder and mix, then those given as
    NAME=MIX=PATH[=JSON].

    Raises:
        SystemExit: an argument has another form, its file is missing, two entries have one name, or a JSON file holds
            no object.
    """
    found = [Entry(FLOAT, "f32", path) for path in (work / "float").glob("f32.gguf")]
    for kind, prefix in (("made", ""), ("ours", "edgedistill "), ("rivals", "")):
        for path in sorted((work / kind).glob("*/*.gguf")):
            found.append(Entry(prefix + path.parent.name, path.stem, path, _made(path.with_suffix(".json"))))
    found += [_given(text) for text in given]
    names = [entry.name for entry in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SystemExit(f"two files are named {twice[0]}; give one of them another tool's name")
    return [entry for entry in found if fnmatchcase(entry.name, only)]


def _given(text: str) -> Entry:
    parts = text.split("=")
    if len(parts) not in (3, 4) or not all(parts):
        raise SystemExit(f"--rival {text}: it must be NAME=MIX=PATH or NAME=MIX=PATH=JSON")
    path = Path(parts[2])
    if not path.is_file():
        raise SystemExit(f"--rival {text}: there is no file {path}")
    return Entry(parts[0], parts[1], path, _made(Path(parts[3]) if len(parts) == 4 else path.with_suffix(".json")))


def _made(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SystemExit(f"{path}: it isn't JSON ({error})") from None
    if not isinstance(found, dict):
        raise SystemExit(f"{path}: it holds a JSON {type(found).__name__}; it must be an object")
    return found
