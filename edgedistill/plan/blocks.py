"""Whether the student's phases can look where their losses want to: layers that are there, heads that divide."""

from edgedistill.config.recipe import Recipe
from edgedistill.errors import InputError
from edgedistill.facts import ModelShape


def check_blocks(recipe: Recipe, student: ModelShape, teacher: ModelShape) -> None:
    """Raise InputError where a term looks at what student or teacher doesn't have."""
    if recipe.student.as_is:
        return
    for index, phase in enumerate(recipe.phases):
        for number, term in enumerate(phase.loss):
            if term not in phase.block_terms:
                continue
            why = term.check(f"{recipe.place_of(index)}.loss.{number}", student, teacher)
            if why is not None:
                raise InputError(f"recipe {recipe.name}: {why}")
