"""Recipe: what to build and how. Budgets are in tokens; defaults are those of the `chat` recipe.

Fields of one part are the settings of one stage, so a change recomputes that stage and what follows it, nothing before.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from edgedistill.config.fields import MixName, Name, PositiveInt, Text, no_duplicates
from edgedistill.config.loss import PRESETS, SHORT_WEIGHTS
from edgedistill.config.own_mixes import OwnMix, allowed_mixes, known_mixes, mix_named
from edgedistill.config.phase import Phase
from edgedistill.config.recover import Recover
from edgedistill.config.students import Student
from edgedistill.config.students.depth import DepthStudent
from edgedistill.config.task import Task
from edgedistill.config.tasks import BUILT_IN, check_entry, task_name
from edgedistill.config.teach import OWN_PROMPTS, Teach
from edgedistill.config.yaml_file import Model, as_tuple, beside_the_file
from edgedistill.errors import did_you_mean
from edgedistill.mixes import MIXES, Mix
from edgedistill.place.choose import check_device

SCHEMA = "edgedistill.recipe/1"
# The name of a single teacher that is written in the short form, `teacher: {...}`.
ONE_TEACHER = "teacher"
FileKind = Literal["gguf", "onnx"]


class Teacher(Model):
    """Who teaches."""

    model: Text | None = Field(
        default=None, description="Folder, hub id, .gguf file or pypi:NAME; the command's MODEL comes before it."
    )
    revision: Text | None = Field(
        default=None, description="Commit of a hub model; a branch would change under the run."
    )
    top_k: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=64, description="Log-probabilities kept of each token; 64 are 384 bytes."
    )
    does: Annotated[tuple[Literal["write", "score"], ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("write", "score"),
        description="write: the training text is its writing; score: its probabilities are what a student learns.",
    )
    blocks: Literal["auto", "stored", "live"] = Field(
        default="auto",
        description=(
            "Where its hidden states and attention come from, if a loss looks at them. stored: written once, before "
            "the student is trained; live: it stays in memory beside the student; auto: stored where that takes less "
            "than the teacher's weights."
        ),
    )

    _unique = field_validator("does")(no_duplicates)


SAMPLE_TOKENS = 96  # of a sample answer
MAX_THREADS = 512  # llama.cpp's own limit (GGML_MAX_N_THREADS)


class Measure(Model):
    """What the packed files are judged on."""

    tokens: PositiveInt = Field(default=4096, description="Tokens judged of each text.")
    prompts: Annotated[tuple[Text, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("What is the capital of France?", "Write two sentences about the sea.", "How do I boil an egg?"),
        description="What every file answers, side by side in the report.",
    )
    prefill: PositiveInt = Field(default=512, description="Tokens of the prompt that is timed.")
    decode: PositiveInt = Field(default=128, description="Tokens written one by one that are timed.")
    repetitions: PositiveInt = Field(default=3, description="Trials of each, after a warm-up.")
    threads: Annotated[int, Field(gt=0, le=MAX_THREADS)] | None = Field(
        default=None, description="null takes the cores that this process may use."
    )
    accuracy_level: Literal[0, 1, 2, 3, 4] = Field(
        default=4, description="What MatMulNBits rounds activations to; 4 is int8."
    )
    tasks: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = Field(
        default=("openbookqa",),
        description="Multiple-choice questions: openbookqa, or .jsonl files beside the recipe; [] for none.",
    )
    task_items: PositiveInt = Field(default=100, description="Questions asked of each, spread evenly over them.")
    refusal_items: Annotated[int, Field(ge=0)] = Field(
        default=40,
        description=(
            "Requests to refuse, and as many that only look like these, asked of a model that chats; 0 for none."
        ),
    )

    @property
    def context(self) -> int:
        """Tokens of context that files are measured with, where no question needs more."""
        return max(self.prefill, self.decode, 512) + SAMPLE_TOKENS

    @field_validator("tasks")
    @classmethod
    def _locate(cls, tasks: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for entry in tasks:
            check_entry(entry)
        no_duplicates(tuple(map(task_name, tasks)))
        return tuple(entry if entry in BUILT_IN else beside_the_file(entry, info) for entry in tasks)


class Recipe(Model):
    """What to build. Paths in it are absolute once it is loaded from a file."""

    shorthands: ClassVar[dict[str, tuple[str, ...]]] = {
        "teacher": ("teachers", ONE_TEACHER),
        "distill": ("phases", "0"),
    }

    schema_: Literal["edgedistill.recipe/1"] = Field(alias="schema", description="What this file is.")
    name: Name = Field(description="What the recipe is called, in the report too.")
    summary: str = Field(default="", description="A sentence for `recipes list`.")
    teachers: dict[Name, Teacher] = Field(
        default={ONE_TEACHER: Teacher()},
        description="By name; exactly one for now. `teacher: {...}` is its short form.",
    )
    student: Student = Field(default=DepthStudent(), description="What of the teacher becomes the student.")
    task: Task | None = Field(default=None, description="What the model is for, as labelled rows; null: it just talks.")
    vocabulary: Annotated[int, Field(ge=256, multiple_of=32)] | None = Field(
        default=None,
        description=(
            "Tokens that the trained student keeps: those that the training text uses, with what their merges go "
            "through, then the commonest. null keeps all."
        ),
    )
    teach: Teach = Teach()
    phases: Annotated[tuple[Phase, ...], Field(min_length=1), BeforeValidator(as_tuple)] = Field(
        default=(Phase(),),
        description=(
            "Trainings in float, one after the other, the teacher's before the student's. `distill: {...}` is the "
            "short form of one."
        ),
    )
    recover: Recover = Recover()
    rival: bool = Field(
        default=True,
        description=(
            "Whether the teacher itself is put on grids in the student's bytes and measured too: what a student must "
            "beat."
        ),
    )
    mixes: Annotated[tuple[MixName, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("q4_0", "q8_0"),
        description=(
            "Built-in ones, which are llama.cpp's; auto_ and one of them, fitted to its bytes; or names under "
            "define_mixes."
        ),
    )
    define_mixes: dict[MixName, OwnMix] = Field(default={}, description="Mixes of your own, by name.")
    export: Annotated[tuple[FileKind, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("gguf", "onnx"), description="The files that are written of each mix."
    )
    measure: Measure = Measure()
    device: str = Field(
        default="cpu",
        description=(
            "What torch computes on: auto, cpu, cuda, cuda:N or mps. auto is the first NVIDIA GPU that torch can use, "
            "else the processor; the default is cpu as long as no GPU has run any of this. --device and "
            "EDGEDISTILL_DEVICE come before it; it changes no stage's key."
        ),
    )

    _device = field_validator("device")(check_device)
    _unique = field_validator("mixes", "export")(no_duplicates)

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, given: Any) -> Any:
        """The short forms in full."""
        if not isinstance(given, dict):
            return given
        recipe = dict(given)
        for short, whole in (("teacher", "teachers"), ("distill", "phases")):
            if short in recipe and whole in recipe:
                raise ValueError(f"{short} is a short form of {whole}, and both are there; leave out one of them")
        if "teacher" in recipe:
            recipe["teachers"] = {ONE_TEACHER: recipe.pop("teacher")}
        if "distill" in recipe:
            recipe["phases"] = (recipe.pop("distill"),)
        return recipe

    @model_validator(mode="after")
    def _one_teacher(self) -> "Recipe":
        if len(self.teachers) != 1:
            named = ", ".join(self.teachers) or "none"
            raise ValueError(f"teachers has {len(self.teachers)} entries ({named}); it must have exactly one")
        writes, scores = ("write" in self.teacher.does, "score" in self.teacher.does)
        asked_tokens = self.teach.tokens + self.teach.free_tokens + self.teach.new_tokens
        name = next(iter(self.teachers))
        if not writes and asked_tokens:
            raise ValueError(
                f"teach asks for {asked_tokens} tokens of writing, and no teacher writes; "
                f"add write to teachers.{name}.does, or set teach.tokens, teach.free_tokens and teach.new_tokens to 0"
            )
        looks = not self.student.as_is and any(phase.block_terms for phase in self.phases)
        if not scores and (self.top_k or looks):
            what = "probabilities" if self.top_k else "hidden states or attention"
            raise ValueError(
                f"a loss compares with a teacher's {what}, and no teacher scores; "
                f"add score to teachers.{name}.does, or learn from the text alone: loss: [{{text: true}}]"
            )
        return self

    @model_validator(mode="after")
    def _phases_in_order(self) -> "Recipe":
        trained = [phase.train for phase in self.phases]
        if trained != sorted(trained, reverse=True):
            late = trained.index("teacher", trained.index("student"))
            raise ValueError(
                f"phases.{late}.train is teacher, and a phase of the student comes before it; the teacher's phases "
                "come first"
            )
        if not self.student_phases and not self.student.as_is:
            raise ValueError(
                "phases has none that trains the student; add {train: student}, or let student.kind be same"
            )
        return self

    @model_validator(mode="after")
    def _vocabulary_goes_with(self) -> "Recipe":
        if self.vocabulary is None:
            return self
        if self.student.as_is:
            raise ValueError(
                "vocabulary is cut after a student was trained, and student.kind is same; leave out vocabulary, or "
                "take another kind"
            )
        if self.student.kind == "auto":
            raise ValueError("vocabulary goes with a student of given sizes, and student.kind is auto; leave out one")
        if self.student.start is not None:
            raise ValueError(
                "vocabulary is cut of students that start from the teacher, and student names another model; leave out "
                "one"
            )
        if self.recover.on_policy is not None and self.recover.compares:
            raise ValueError(
                "vocabulary goes with no recover.on_policy whose loss goes towards the teacher, which would have to "
                "read the smaller vocabulary; leave out one"
            )
        return self

    @model_validator(mode="after")
    def _prompts_and_answers(self) -> "Recipe":
        own = self.teach.prompts == OWN_PROMPTS
        if self.task is not None and not own:
            raise ValueError(
                f"task.file and teach.prompts ('{self.teach.prompts}') both say what the teacher is asked; "
                "leave out one"
            )
        return self

    @model_validator(mode="after")
    def _new_questions(self) -> "Recipe":
        if not self.teach.new_tokens:
            return self
        if not self.teacher_phases:
            raise ValueError(
                "teach.new_tokens are of a teacher that learned the task's questions, and no phase trains the "
                "teacher; add {train: teacher} to phases, or leave out teach.new_tokens"
            )
        if self.teach.prompts != OWN_PROMPTS:
            raise ValueError(
                "teach.new_tokens are of questions like a task's, and teach.prompts names a file; give its rows as "
                "task.file, or leave out teach.new_tokens"
            )
        if self.teach.style == "text":
            raise ValueError("teach.new_tokens are of chats, and teach.style is text; leave out one of them")
        return self

    @property
    def lacks_answers(self) -> str | None:
        """What of the recipe needs labelled answers, where it names no file that brings any; else None.

        A recipe may wait for the file of the command's --data.
        """
        if self.task is not None or self.teach.prompts != OWN_PROMPTS:
            return None
        if self.teacher_phases:
            return "a phase trains the teacher on labelled answers"
        if self.teach.answers != "teacher":
            return f"teach.answers is '{self.teach.answers}'"
        return None

    @model_validator(mode="after")
    def _known_mixes(self) -> "Recipe":
        for name in self.define_mixes:
            if name in MIXES:
                raise ValueError(f"define_mixes.{name} has the name of a built-in mix; give it another")
        known = known_mixes(self.define_mixes)
        places = {
            "mixes": self.mixes,
            "recover.tokens_by_mix": self.recover.tokens_by_mix,
            "recover.rate_by_mix": self.recover.rate_by_mix,
        }
        for place, names in places.items():
            for name in names:
                if name not in known:
                    allowed = f"it must be one of {allowed_mixes(self.define_mixes)}, or defined under define_mixes"
                    raise ValueError(f"{place} has '{name}'; {allowed}.{did_you_mean(name, known)}")
        return self

    def mix(self, name: str) -> Mix:
        """A mix by its name in `mixes`, with its definition."""
        return mix_named(name, self.define_mixes)

    @property
    def teacher(self) -> Teacher:
        """The one teacher."""
        return next(iter(self.teachers.values()))

    @property
    def teacher_phases(self) -> tuple[Phase, ...]:
        """The phases that train the teacher."""
        return tuple(phase for phase in self.phases if phase.train == "teacher")

    @property
    def student_phases(self) -> tuple[Phase, ...]:
        """The phases that train the student."""
        return tuple(phase for phase in self.phases if phase.train == "student")

    @property
    def distill(self) -> Phase:
        """The first phase of the student; the first of all where it has none."""
        return (self.student_phases or self.phases)[0]

    @property
    def trained_phases(self) -> tuple[Phase, ...]:
        """The phases that a compile runs: a student that is the teacher itself has none of its own."""
        return self.teacher_phases if self.student.as_is else self.phases

    def place_of(self, index: int) -> str:
        """What messages call a phase, counted from 0: its short form where it is the only one."""
        return "distill" if len(self.phases) == 1 else f"phases.{index}"

    @property
    def top_k(self) -> int:
        """Log-probabilities that the teacher gives of each token; 0 where no loss compares with them."""
        in_phases = not self.student.as_is and any(phase.compares for phase in self.student_phases)
        return self.teacher.top_k if in_phases or self.recover.compares else 0

    def with_teacher(self, model: str | None, revision: str | None = None) -> "Recipe":
        """The same recipe with what the command line says of the teacher; None changes nothing."""
        changes = {name: value for name, value in (("model", model), ("revision", revision)) if value is not None}
        name = next(iter(self.teachers))
        return self.model_copy(update={"teachers": {name: self.teacher.model_copy(update=changes)}})

    def decided(self, has_chat_template: bool) -> "Recipe":
        """The same recipe with what `teach` leaves open decided: the style, by whether the teacher chats, and the
        text's window.
        """
        teach = self.teach.styled(has_chat_template)
        if teach.text_window is None:
            lengths = [self.recover.seq_len]
            lengths += [phase.seq_len for phase in self.trained_phases]
            teach = teach.model_copy(update={"text_window": min(lengths)})
        if self.task is not None:  # its rows are all there is, and none of their answers is cut off
            longest = max(teach.max_answer_tokens, self.task.max_answer_tokens)
            teach = teach.model_copy(update={"too_few_prompts": "accept", "max_answer_tokens": longest})
        return self.model_copy(update={"teach": teach})

    def to_dict(self) -> dict[str, Any]:
        """All settings, defaults too, as JSON types."""
        return self.model_dump(mode="json", by_alias=True)


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe file, for editors; the short forms are in it too."""
    schema = Recipe.model_json_schema(by_alias=True)
    properties = schema["properties"]
    properties["teacher"] = {"$ref": "#/$defs/Teacher", "description": "Short for teachers with one entry."}
    properties["distill"] = {"$ref": "#/$defs/Phase", "description": "Short for phases with one entry."}
    short_loss = {name: {"type": "number", "minimum": 0} for name in SHORT_WEIGHTS}
    loss = schema["$defs"]["Phase"]["properties"]["loss"]
    terms = {key: loss.pop(key) for key in ("items", "minItems", "type")}
    loss["anyOf"] = [
        terms,
        {"type": "object", "properties": short_loss, "additionalProperties": False},
        {"enum": list(PRESETS)},
    ]
    for kind in ("SameStudent", "DepthStudent"):
        schema["$defs"][kind]["properties"]["as_is"] = {
            "type": "boolean",
            "description": "Short for the kind: true is same, false depth.",
        }
    return schema
