"""Which of a bundle's files to use, and how to ask it: bundle.json.

One function chooses. The Modelfile, the programs in examples/ and bundle.json name what it gives, and `chat` and
`serve` read it there, so all of them open the same file: the one in the mix that the report's verdict is about.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.bundle.names import split_key
from edgedistill.bundle.settings import SAMPLING, sound_number
from edgedistill.runtimes.chat_defaults import ChatDefaults

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


def recommended_text(chosen: Recommended, chat: ChatDefaults) -> str:
    """What bundle.json holds."""
    held = {
        "schema": SCHEMA,
        "recommended": {"gguf": chosen.gguf, "onnx": chosen.onnx},
        "sampling": {"temperature": chat.temperature, "top_p": chat.top_p},
        "system": chat.system,
    }
    # In ASCII: a control character of a system message stays an escape.
    return json.dumps(held, indent=1) + "\n"


def read_recommended(bundle: Path) -> Recommended:
    """What a bundle recommends; nothing where its file is missing or of something else."""
    names = _part(_read(bundle), "recommended")
    return Recommended(_plain(bundle, names.get("gguf")), _plain(bundle, names.get("onnx")))


def read_chat_defaults(bundle: Path) -> ChatDefaults:
    """How a bundle's model is to be asked; as a bare file is where its file is missing or of something else."""
    held = _read(bundle)
    sampling, system = _part(held, "sampling"), held.get("system")
    sound = {name: value for name in SAMPLING if (value := sound_number(sampling.get(name), name)) is not None}
    return ChatDefaults(**sound, system=system if isinstance(system, str) and system else None)


def _read(bundle: Path) -> Mapping[str, Any]:
    """bundle.json; empty where it is missing or of something else."""
    try:
        held: Any = json.loads((bundle / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) and held.get("schema") == SCHEMA else {}


def _part(held: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = held.get(name)
    return part if isinstance(part, dict) else {}


def _plain(bundle: Path, name: object) -> str | None:
    """A name right inside the bundle: what a file says never leads elsewhere."""
    plain = isinstance(name, str) and name != "" and Path(name).name == name
    return str(name) if plain and (bundle / str(name)).exists() else None
