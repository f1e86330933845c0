"""A recipe for the `compare` command: the model as it is in several mixes, rounded, and recovered where a budget is
given.
"""

from edgedistill.config.overrides import Overrides
from edgedistill.config.recipe import Recipe
from edgedistill.config.recovery import recovery_recipe
from edgedistill.errors import InputError
from edgedistill.facts import ModelShape
from edgedistill.mixes import fallbacks, mix_bytes, storable

# Of two mixes whose files differ by less, one tells what the other would.
APART = 0.03


def comparison_recipe(recipe: Recipe, overrides: Overrides) -> Recipe:
    """The recipe with `student.as_is`, and with what the command line says; what it leaves out stays as the recipe has
    it.

    Args:
        recipe: any; its `distill` part isn't used, and its `recover` part only with a budget.
        overrides: mixes; training tokens of each mix ("0" fits without training, None only rounds); texts, which the
            files are judged on in place of the prose that comes along.
    Raises:
        InputError: an option is wrong; one sentence that names it.
    """
    if overrides.tokens is not None and not overrides.tokens.strip():
        raise InputError(
            "--recover is empty; give the training tokens of each mix, such as 20k, or 0 for the fit alone"
        )
    changed = recovery_recipe(recipe, overrides)
    unfitted = [name for name in changed.mixes if changed.mix(name).unfitted]
    if overrides.tokens is None and unfitted:
        raise InputError(
            f"--mix names '{unfitted[0]}', whose grids are chosen by what each costs on training text; give --recover "
            "too (--recover 0 chooses and fits without training), or leave it out"
        )
    return changed


def apart(recipe: Recipe, shape: ModelShape) -> tuple[Recipe, list[str]]:
    """The recipe with only those of its mixes that come out apart for a model, and a sentence on each that is left out.

    Where rows don't divide by 256, most of a K-quant mix is stored in other grids, and its file is nearly that of a
    neighbour.
    """
    kept: list[str] = []
    left_out: list[str] = []
    for name in recipe.mixes:
        mix = recipe.mix(name)
        if mix.rules or mix.size is not None:
            kept.append(name)
        elif not storable(shape, mix.base):
            left_out.append(f"{name}: rows of this model don't divide into its blocks")
        else:
            size = mix_bytes(shape, mix)
            near = next((k for k in kept if abs(mix_bytes(shape, recipe.mix(k)) - size) < APART * size), None)
            if near is None:
                kept.append(name)
            else:
                fell = ", since rows that don't divide by 256 fall back to other grids" if fallbacks(shape, mix) else ""
                left_out.append(f"{name}: its file would be nearly as large as {near}'s{fell}")
    return (recipe.model_copy(update={"mixes": tuple(kept)}), left_out) if kept else (recipe, [])
