"""Which of a bundle's files to use: bundle.json.

One function chooses. The Modelfile, the programs in examples/ and bundle.json name what it gives, and `chat` and
`serve` read it there, so all of them open the same file: the one in the mix that the report's verdict is about.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.bundle.names import split_key
from edgedistill.store.files import canonical_json

FILE = "bundle.json"
SCHEMA = "edgedistill.bundle/1"


@dataclass(frozen=True)
class Recommended:
    """Names in the bundle's folder; None where it has no artifact of that kind."""

    gguf: str | None
    onnx: str | None

    def of(self, runtime: str) -> str | None:
        """The artifact for a runtime."""
        return self.gguf if runtime == "llama.cpp" else self.onnx


def recommended(placed: Mapping[str, Path], mix: str | None) -> Recommended:
    """The artifact of each kind in the mix to use; where there is none, the first of its kind.

    Args:
        placed: the artifacts by gguf-MIX or onnx-MIX.
        mix: the verdict's.
    """
    names: dict[str, str | None] = {}
    for kind in ("gguf", "onnx"):
        of_kind = {split_key(key)[1]: path.name for key, path in placed.items() if split_key(key)[0] == kind}
        names[kind] = of_kind.get(mix or "") or next(iter(of_kind.values()), None)
    return Recommended(names["gguf"], names["onnx"])


def recommended_text(chosen: Recommended) -> str:
    """What bundle.json holds."""
    return canonical_json({"schema": SCHEMA, "recommended": {"gguf": chosen.gguf, "onnx": chosen.onnx}}) + "\n"


def read_recommended(bundle: Path) -> Recommended:
    """What a bundle recommends; nothing where its file is missing or of something else."""
    try:
        found: Any = json.loads((bundle / FILE).read_text(encoding="utf-8"))
        names = found["recommended"] if found["schema"] == SCHEMA else {}
        gguf, onnx = names.get("gguf"), names.get("onnx")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Recommended(None, None)
    return Recommended(_plain(bundle, gguf), _plain(bundle, onnx))


def _plain(bundle: Path, name: object) -> str | None:
    """A name right inside the bundle: what a file says never leads elsewhere."""
    plain = isinstance(name, str) and name != "" and Path(name).name == name
    return str(name) if plain and (bundle / str(name)).exists() else None
