"""What all stages of one run share: the recipe, the teacher, the student's shape, the machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from edgedistill import __version__
from edgedistill.config.phase import stage_of
from edgedistill.config.recipe import Recipe
from edgedistill.config.target import Target
from edgedistill.config.task_data import TaskData
from edgedistill.facts import ModelFacts, ModelShape, Start
from edgedistill.formats import NumberFormat
from edgedistill.machine import compute_of
from edgedistill.mixes import Mix
from edgedistill.models.source import public_source
from edgedistill.pipeline.stage import InStage, Json, Outside
from edgedistill.place import CPU, Place
from edgedistill.plan.rival import RivalPlan

# The stages of the training text: in the teacher's ids, and in those of a student that has others.
TAUGHT, STUDENT_TEXT = "teach", "student-text"
# The stages of a student with fewer tokens, and of the text in its ids.
VOCABULARY, VOCABULARY_TEXT = "vocabulary", "vocabulary-text"
# Recipe settings that change how a stage is run and not what it makes.
NO_RESULT = {"checkpoint_seconds"}
# Settings that came later: a stage that leaves one as it is here keeps the key that it had before.
LATER: dict[str, Json] = {
    "general": None,
    "order": "shuffled",
    "on_policy": None,
    "adapter": None,
    "choose": "influence",
    "new_tokens": 0,
}


@dataclass(frozen=True)
class Context:
    """One run.

    Attributes:
        recipe: what to build, decided (`Recipe.decided`).
        target: what for.
        facts: the teacher's.
        shape: the student's.
        cores: that this process may use.
        recovering: whether each mix is trained on its grid; else it is only rounded.
        command: the command line that repeats the run.
        out: the run folder.
        license_text: the teacher's licence in full, if it is known.
        system: the message that the files are asked behind: all chats of the training begin with it.
        task: the rows of the recipe's task, if it has one.
        rival: the teacher in the student's bytes, where it is made and measured too.
        start: the model that the student starts from; None where that is the teacher.
        place: the device that torch computes on.
    """

    recipe: Recipe
    target: Target
    facts: ModelFacts
    shape: ModelShape
    cores: int
    recovering: bool
    command: str = ""
    out: Path = Path()
    license_text: str | None = None
    system: str | None = None
    task: TaskData | None = None
    rival: RivalPlan | None = None
    start: Start | None = None
    place: Place = CPU

    @property
    def device(self) -> str:
        """Torch's word for the device that it computes on."""
        return self.place.device

    @property
    def as_is(self) -> bool:
        """Whether the student is the teacher itself."""
        return self.recipe.student.as_is

    @property
    def given_teacher(self) -> Path:
        """The teacher's folder or file as it was given; its tokenizer and template stay, whatever trains it."""
        return Path(self.facts.location)

    @property
    def given_files(self) -> Outside:
        """The teacher as it was given, as a stage reads it."""
        return Outside(self.given_teacher, model=True)

    @property
    def teacher_files(self) -> Outside:
        """The teacher that writes and scores, as a stage reads it: as given, or as its own phases left it."""
        phases = self.recipe.teacher_phases
        if not phases:
            return self.given_files
        return Outside(InStage(stage_of(len(phases) - 1, "teacher"), ""), model=True)

    @property
    def origin(self) -> ModelFacts:
        """The model that the student starts from: its words, template, name and licence are the student's."""
        return self.facts if self.start is None else self.start.facts

    @property
    def words(self) -> Path:
        """Where its tokenizer and template lie, which are the student's."""
        return Path(self.origin.location)

    @property
    def words_files(self) -> dict[str, Outside]:
        """The same, as a stage reads it; by the name that its key has it under."""
        return {"teacher" if self.start is None else "start": Outside(self.words, model=True)}

    @property
    def origin_files(self) -> dict[str, Outside]:
        """The model itself, likewise: a teacher as its own phases left it."""
        return {"teacher": self.teacher_files} if self.start is None else self.words_files

    @property
    def origin_license(self) -> str | None:
        """Its licence in full, if it is known."""
        return self.license_text if self.start is None else self.start.license_text

    @property
    def same_words(self) -> bool:
        """Whether ids mean the same to teacher and student, so that their predictions can be compared."""
        return self.start is None or self.start.other_words is None

    @property
    def same_chats(self) -> bool:
        """Whether a conversation has the same ids to both, too."""
        return self.start is None or self.start.same_chats

    @property
    def text(self) -> str:
        """The stage of the training text in the student's ids."""
        return TAUGHT if self.same_chats else STUDENT_TEXT

    @property
    def own_file(self) -> bool:
        """Whether the teacher is a GGUF file, which llama.cpp runs as it is."""
        return self.facts.kind == "gguf" and not self.recipe.teacher_phases

    @property
    def student_name(self) -> str:
        """What the run's files are called after."""
        name = self.recipe.student.name(self.origin.name, self.origin.shape)
        return name if self.recipe.vocabulary is None else f"{name}, {self.recipe.vocabulary} tokens"

    @property
    def trimmed(self) -> bool:
        """Whether the student loses tokens after its training."""
        return self.recipe.vocabulary is not None

    @property
    def float_student(self) -> str:
        """The stage whose folder is the float student as it is put on grids."""
        return VOCABULARY if self.trimmed else self.trained_student

    @property
    def float_text(self) -> str:
        """The stage of the training text in that student's ids."""
        return VOCABULARY_TEXT if self.trimmed else self.text

    @property
    def deciding_text(self) -> tuple[str, ...]:
        """The source of validation text that says which weights of a training are the best; none where all of them do.

        What a task wins, general text may lose.
        """
        return ("written",) if self.recipe.task is not None else ()

    @property
    def trained_student(self) -> str:
        """The stage whose folder is the student as its phases left it."""
        return "student" if self.as_is else stage_of(len(self.recipe.student_phases) - 1)

    @property
    def mixes(self) -> list[Mix]:
        """All mixes of the recipe."""
        return [self.recipe.mix(name) for name in self.recipe.mixes]

    @property
    def identity(self) -> dict[str, str]:
        """What the run folder is for."""
        return {
            "teacher": self.facts.source,
            "recipe": self.recipe.name,
            "target": self.target.name,
            "version": __version__,
        }

    def metadata(self, mix: str, origin: str) -> dict[str, Json]:
        """What an exported file says of itself; `origin`: "recovered", "rounded", "float" or "teacher"."""
        entries: dict[str, Json] = {
            "name": self.student_name,
            "license": self.origin.license,
            "teacher": public_source(self.facts.source),
            "recipe": self.recipe.name,
            "mix": mix,
            "made": origin,
            "version": __version__,
        }
        return {key: value for key, value in entries.items() if value}


def settings_of(part: BaseModel) -> dict[str, Json]:
    """A recipe part as JSON types, without what changes no result, and with the number type that is computed in."""
    settings: dict[str, Json] = part.model_dump(mode="json", exclude=NO_RESULT)
    settings = {key: value for key, value in settings.items() if key not in LATER or value != LATER[key]}
    if "compute" in settings:
        settings["compute"] = compute_of(str(settings["compute"]))
    return settings


def names_of(formats: Mapping[str, NumberFormat]) -> dict[str, Json]:
    """Tensor -> the name of its format, as settings hold it."""
    return {tensor: number_format.name for tensor, number_format in formats.items()}
