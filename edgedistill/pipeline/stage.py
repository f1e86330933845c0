"""A stage as a value: what it is called, what its output depends on, what it takes, and the work itself.

A list of these is the whole pipeline. The plan, `--dry-run`, the progress bar, the run and the report's provenance read
the same list; runner.py is the only loop over it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar

from edgedistill.errors import RunError
from edgedistill.models.source import model_sha256
from edgedistill.plan.types import Plan, StageEstimate
from edgedistill.progress import Progress
from edgedistill.store.files import file_sha256, tree_sha256
from edgedistill.store.marks import StageResult

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
T = TypeVar("T")


@dataclass(frozen=True)
class InStage:
    """A file or folder within the folder of an earlier stage."""

    stage: str
    name: str


@dataclass(frozen=True)
class Outside:
    """What a stage reads beside its inputs; its key hashes the content, wherever it lies.

    Attributes:
        place: a path, or a place in an earlier stage whose own key doesn't count.
        model: whether it is a model folder, of which only what is loaded counts.
    """

    place: Path | InStage
    model: bool = False


class Hashes:
    """SHA-256 of what lies outside, each computed once in a run."""

    def __init__(self) -> None:
        """Begin with none."""
        self._known: dict[tuple[Path, bool], str] = {}

    def of(self, path: Path, model: bool) -> str:
        """The hash of a file or a folder; of a model, of what is loaded from it."""
        key = (path, model)
        if key not in self._known:
            if model:
                self._known[key] = model_sha256(path)
            else:
                self._known[key] = file_sha256(path) if path.is_file() else tree_sha256(path)
        return self._known[key]


class Finished:
    """The stages that a run has finished so far, as the stages after them see them."""

    def __init__(self, progress: Progress, plan: Plan) -> None:
        """Begin with none; `plan` is what was foretold."""
        self.progress, self.plan = progress, plan
        self.results: dict[str, StageResult] = {}
        self._kept: dict[str, object] = {}
        self._hashes = Hashes()

    def add(self, result: StageResult) -> None:
        """Another one ended."""
        self.results[result.name] = result

    def folder(self, stage: str) -> Path:
        """The folder of a finished stage; read it, never write into it."""
        return self.results[stage].path

    def locate(self, place: Path | InStage) -> Path:
        """Where a file lies."""
        return place if isinstance(place, Path) else self.folder(place.stage) / place.name

    def sha256(self, outside: Outside) -> str:
        """The hash of a file, a folder or a model."""
        return self._hashes.of(self.locate(outside.place), outside.model)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once for all stages that ask for it by this name."""
        if name not in self._kept:
            self._kept[name] = make()
        kept: T = self._kept[name]  # type: ignore[assignment]
        return kept


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: its folder's name, such as "recover-q4_0"; unique in a list.
        kind: what it has in common with others, such as "recover": stages of a kind take alike long.
        work: writes the output into the folder that it is given; called again after a kill with what it left there.
        settings: JSON types that the output depends on, beside the inputs.
        inputs: names of earlier stages that it reads.
        outside: what else it reads, by a name for each.
        mix: the mix that it is about, if one.
        estimate: what it takes on this machine.
    """

    name: str
    kind: str
    work: Callable[[Path, Finished], None]
    settings: Mapping[str, Json] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outside: Mapping[str, Outside] = field(default_factory=dict)
    mix: str | None = None
    estimate: StageEstimate = StageEstimate()


def check_order(stages: Iterable[Stage]) -> None:
    """Check that names are unique and that each stage reads earlier ones alone.

    Raises:
        RunError: they aren't, or one doesn't: the list is wrong.
    """
    names: set[str] = set()
    for stage in stages:
        within = {o.place.stage for o in stage.outside.values() if isinstance(o.place, InStage)}
        missing = sorted((set(stage.inputs) | within) - names)
        if missing:
            raise RunError(f"stage {stage.name} reads {missing[0]}, which doesn't come before it.")
        if stage.name in names:
            raise RunError(f"there are two stages of the name {stage.name}.")
        names.add(stage.name)
