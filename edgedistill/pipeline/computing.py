"""Which stages torch computes on the run's device, in which number type, and what they need of its memory."""

from collections.abc import Sequence

from edgedistill.config.recipe import Recipe
from edgedistill.pipeline.context import Context
from edgedistill.pipeline.stage import Stage
from edgedistill.place import Place
from edgedistill.plan.types import GpuNeed
from edgedistill.show import show_bytes

# Kinds of stages whose tensors lie on the device; the others write, pack, measure in the runtimes or read text.
COMPUTING = frozenset(
    ("student", "distill", "blocks", "capture", "costs", "sensitivity", "fit", "recover", "rival", "reference")
)


def computed_on(recipe: Recipe, place: Place) -> Recipe:
    """The recipe with the number type of each training decided for a GPU; on the processor `machine.compute_of` does.

    The type is part of a stage's key, the device isn't.
    """
    if not place.on_gpu:
        return recipe
    phases = tuple(phase.model_copy(update={"compute": place.compute_of(phase.compute)}) for phase in recipe.phases)
    recover = recipe.recover.model_copy(update={"compute": place.compute_of(recipe.recover.compute)})
    return recipe.model_copy(update={"phases": phases, "recover": recover})


def gpu_need(stages: Sequence[Stage], context: Context) -> GpuNeed | None:
    """The stage that needs the most memory of the run's GPU: as much as the estimate gives it of the processor's.

    None on the processor.
    """
    if not context.place.on_gpu:
        return None
    computing = [stage for stage in stages if stage.kind in COMPUTING]
    needs = [GpuNeed(stage.name, stage.estimate.ram_bytes) for stage in computing]
    return max(needs, key=lambda need: need.bytes, default=None)


def processor_instead(place: Place, need: GpuNeed | None) -> Place | None:
    """The processor, where nobody named the GPU and a stage needs more memory than it has free; else None."""
    if place.chosen or place.gpu is None or need is None:
        return None
    free = place.gpu.free_bytes
    if free is None or need.bytes <= free:
        return None
    why = f"{need.stage} needs about {show_bytes(need.bytes)}, and {place.gpu.name} has {show_bytes(free)} free"
    return Place(why=why)
