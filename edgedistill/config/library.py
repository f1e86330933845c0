"""Recipes and targets by name: those that travel inside the installed package, or the top-level folders of a
checkout.
"""

from pathlib import Path

import edgedistill
from edgedistill.config.recipe import Recipe
from edgedistill.config.target import HERE, Target
from edgedistill.config.yaml_file import load
from edgedistill.errors import InputError, did_you_mean

SUFFIXES = (".yaml", ".yml")


def library_folder(kind: str) -> Path:
    """The folder with named "recipes" or "targets"."""
    package = Path(edgedistill.__file__).resolve().parent
    installed = package / "_data" / kind
    return installed if installed.is_dir() else package.parent / kind


def names(kind: str) -> list[str]:
    """The names in a library folder, sorted."""
    return sorted(path.stem for path in library_folder(kind).glob("*.yaml"))


def locate(kind: str, name_or_path: str) -> Path:
    """The file of a recipe or target that is named, or given by its path.

    Raises:
        InputError: neither a known name nor a YAML file.
    """
    available = names(kind)
    if name_or_path in available:
        return library_folder(kind) / f"{name_or_path}.yaml"
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() in SUFFIXES or path.is_file():
        return path
    what = kind.removesuffix("s")
    if kind == "targets":
        available = [*available, HERE]
    near = did_you_mean(name_or_path, available)
    allowed = f"it must be one of {', '.join(available)}, or the path of a .yaml file"
    raise InputError(f"{what} '{name_or_path}' is unknown; {allowed}.{near}")


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A recipe by its name, such as "chat", or from a YAML file.

    Raises:
        InputError: there is none, or a key or value in it is wrong.
    """
    return load(locate("recipes", str(name_or_path)), Recipe)


def load_target(name_or_path: str | Path) -> Target:
    """A target by its name, such as "laptop-cpu", or from a YAML file.

    Raises:
        InputError: there is none, or a key or value in it is wrong.
    """
    return load(locate("targets", str(name_or_path)), Target)
