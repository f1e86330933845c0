"""Whether the models that a recipe trains can have the adapters that its phases ask for."""

from edgedistill.config.recipe import Recipe
from edgedistill.errors import InputError
from edgedistill.facts import ModelShape


def check_adapters(recipe: Recipe, student: ModelShape, teacher: ModelShape, new_tables: bool) -> None:
    """Raise InputError where an adapter's rank, its targets or its base don't go with the model that it is beside.

    Args:
        student, teacher: their shapes.
        new_tables: whether the student's embedding isn't one that a model was trained with, so that it must be trained.
    """
    for index, phase in enumerate(recipe.phases):
        adapter = phase.adapter
        if adapter is None or (recipe.student.as_is and phase.train == "student"):
            continue
        place = f"recipe {recipe.name}: {recipe.place_of(index)}.adapter"
        why = adapter.check(teacher if phase.train == "teacher" else student)
        if why is not None:
            raise InputError(f"{place}: {why}.")
        if new_tables and phase.train == "student":
            raise InputError(
                f"{place}: an adapter trains the layers' matrices alone, and a student of kind {recipe.student.kind} "
                "has an embedding of its own that must be trained too; leave adapter out."
            )
