"""Whether the text of a recipe has what its phases mix: answers, and a share of general text beside them."""

from collections.abc import Iterator

from edgedistill.config.phase import Phase
from edgedistill.config.recipe import Recipe
from edgedistill.errors import InputError


def check_general(recipe: Recipe) -> None:
    """Raise InputError where a phase asks for a share of general text, and there will be none, or nothing else."""
    for phase in recipe.trained_phases:
        missing = next(_missing(recipe, phase), None)
        if phase.general is not None and missing is not None:
            place = recipe.place_of(recipe.phases.index(phase))
            raise InputError(
                f"recipe {recipe.name}: {place}.general is {phase.general:g}, and the training text has no {missing}."
            )


def _missing(recipe: Recipe, phase: Phase) -> Iterator[str]:
    """What the text of a phase lacks, and what to do."""
    teach = recipe.teach
    if phase.train == "teacher":  # it learns before it writes: the rows' own answers, and what is read
        if not teach.text_tokens:
            yield "prose; raise teach.text_tokens, or leave general out"
        return
    if not teach.text_tokens + teach.free_tokens:
        yield "prose nor free text; raise teach.text_tokens or teach.free_tokens, or leave general out"
    if not teach.tokens + teach.new_tokens:
        yield "text that the teacher writes in answer; raise teach.tokens, or leave general out"
