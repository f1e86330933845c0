"""What all stages of one compile know: the run folder, the recipe, the teacher, the student's shape, what is done so
far.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgedistill import __version__
from edgedistill.config.target import Target
from edgedistill.facts import ModelFacts
from edgedistill.formats import NumberFormat
from edgedistill.models.source import model_sha256
from edgedistill.plan import Plan
from edgedistill.progress import Progress
from edgedistill.stages.schedule import Schedule, expected_of
from edgedistill.store.marks import StageResult
from edgedistill.store.run import RunFolder

T = TypeVar("T")

# Recipe settings that change how a stage is run and not what it makes.
NO_RESULT = {"checkpoint_seconds"}


@dataclass(frozen=True)
class Outcome:
    """What a compile or a comparison left behind."""

    run: Path
    report: dict[str, Any]
    report_html: Path
    bundle: Path
    files: dict[str, Path]  # what ships, by gguf-MIX or onnx-MIX
    stages: tuple[StageResult, ...]


class Build:
    """One compile at work."""

    def __init__(
        self,
        run: RunFolder,
        target: Target,
        facts: ModelFacts,
        plan: Plan,
        command: str,
        progress: Progress,
        license_text: str | None,
    ) -> None:
        self.run, self.recipe, self.target, self.facts, self.plan = run, plan.recipe, target, facts, plan
        self.command, self.progress, self.license_text = command, progress, license_text
        self.teacher = Path(facts.location)
        self.as_is = self.recipe.student.as_is
        self.layers = self.recipe.student.layers_of(facts.shape.layers)
        self.shape = facts.shape.with_layers(self.layers)
        self.name = facts.name if self.as_is else f"{facts.name} {self.layers} layers"
        self.results: list[StageResult] = []
        self.schedule: Schedule | None = None
        self._kept: dict[str, Any] = {}
        self.progress.note("checking the teacher's files")
        self.teacher_hash = model_sha256(self.teacher)

    def stage(
        self,
        name: str,
        settings: Mapping[str, Any],
        inputs: list[StageResult],
        build: Callable[[Path], None],
        outside: Mapping[str, str] | None = None,
    ) -> StageResult:
        """One stage of the store, told to the user."""
        if self.schedule is not None:
            self.schedule.start(name)
        result = self.run.stage(name, settings, inputs, outside, build=build)
        if self.schedule is not None:
            self.schedule.finish(not result.reused)
        self.results.append(result)
        seconds = result.mark["seconds"]
        self.progress.note(f"{name}: " + ("complete already" if result.reused else f"done in {seconds:.0f} s"))
        return result

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once for all stages that ask for it by this name."""
        if name not in self._kept:
            self._kept[name] = make()
        found: T = self._kept[name]
        return found

    def expect(self, once: tuple[str, ...], recovering: bool, files: int) -> None:
        """Say which stages are to come, so that progress shows how far the run is; see `schedule.expected_of`."""
        fitted = sum(self.recipe.mix(name).unfitted for name in self.recipe.mixes)
        self.schedule = Schedule(
            expected_of(self, (*once, *(("sensitivity",) if fitted else ())), recovering, files, fitted)
        )
        self.progress.overall(self.schedule.text)

    def metadata(self, mix: str, made: str) -> dict[str, str]:
        """What an exported file says of itself."""
        found = {
            "name": self.name,
            "license": self.facts.license,
            "teacher": self.facts.source,
            "recipe": self.recipe.name,
            "mix": mix,
            "made": made,
            "version": __version__,
        }
        return {key: value for key, value in found.items() if value}


def settings_of(part: Any) -> dict[str, Any]:
    """A recipe part as JSON types, without what changes no result."""
    return {key: value for key, value in part.model_dump(mode="json").items() if key not in NO_RESULT}


def names_of(formats: Mapping[str, NumberFormat]) -> dict[str, str]:
    """Tensor -> the name of its format, as settings hold it."""
    return {tensor: number_format.name for tensor, number_format in formats.items()}
