"""What `compile` and `recover` share: plan before anything large is fetched, then build, with progress on stderr."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgedistill.config import Recipe, Target
    from edgedistill.stages.build import Outcome


def build(recipe: "Recipe", target: "Target", out: Path, command: str) -> "Outcome":
    """Build a recipe, whose teacher is set, in the run folder `out`; `command` is the command line that repeats it.

    Raises:
        EdgeDistillError: as `plan_for` and `compile_model`.
    """
    from edgedistill.cli.plan import plan_for
    from edgedistill.compile import compile_model
    from edgedistill.models.facts import read_facts
    from edgedistill.models.source import license_text_beside, resolve
    from edgedistill.progress import RichProgress

    plan_for(recipe, target, out).require_fit()  # before a large teacher is downloaded
    source = str(recipe.teacher.model)
    facts = read_facts(resolve(source, revision=recipe.teacher.revision), source)
    progress = RichProgress()
    try:
        return compile_model(recipe, target, facts, out, command, progress, license_text_beside(Path(facts.location)))
    finally:
        progress.finish()
