"""A recipe for the `recover` command: the model stays as it is, and the command line's overrides hold."""

from edgedistill.config.overrides import Overrides, overridden
from edgedistill.config.recipe import Recipe

NONE = Overrides()


def recovery_recipe(recipe: Recipe, overrides: Overrides = NONE) -> Recipe:
    """The recipe with `student.as_is`, with what the command line says, and with as much text as its training wants.

    Args:
        recipe: any; its `distill` part isn't used.
        overrides: what the command line says.
    Raises:
        InputError: an option is wrong; one sentence that names it.
    """
    return overridden(recipe, overrides, as_is=True)
