"""Where a student starts, if that isn't its teacher: the name of a model, as a recipe gives it. No torch."""

from pathlib import Path

from pydantic import ValidationInfo

from edgedistill.config.yaml_file import beside_the_file


def located(name: str, info: ValidationInfo) -> str:
    """A model's name with the path of what lies beside the recipe; all else stays as it is, such as a hub id."""
    beside = beside_the_file(name, info)
    return beside if Path(beside).exists() else name
