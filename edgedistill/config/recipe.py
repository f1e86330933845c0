"""Recipe: what to build and how. Budgets are in tokens; defaults are those of the `chat` recipe.

Fields of one part are the settings of one stage, so a change recomputes that stage and what follows it, nothing before.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from edgedistill.config.fields import MixName, Name, PositiveFloat, PositiveInt, Text, no_duplicates
from edgedistill.config.own_mixes import OwnMix, allowed_mixes, known_mixes, mix_named
from edgedistill.config.recover import Recover
from edgedistill.config.tasks import BUILT_IN, check_entry, task_name
from edgedistill.config.teach import Teach
from edgedistill.config.training import Training
from edgedistill.config.yaml_file import Model, as_tuple, beside_the_file
from edgedistill.errors import did_you_mean
from edgedistill.mixes import MIXES, Mix

SCHEMA = "edgedistill.recipe/1"


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


class Student(Model):
    """What of the teacher is kept."""

    as_is: bool = Field(
        default=False, description="The student is the teacher itself: no layer is cut, nothing is distilled."
    )
    layers: PositiveInt | None = Field(default=None, description="How many layers; null lets `depth` decide.")
    depth: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9, description="Share of the teacher's layers, used while layers is null."
    )

    @model_validator(mode="after")
    def _whole(self) -> "Student":
        if self.as_is and self.layers is not None:
            raise ValueError(
                f"as_is keeps all of the teacher's layers; leave out layers ({self.layers}), or set as_is to false"
            )
        return self

    def layers_of(self, teacher_layers: int) -> int:
        """Layers that the student of a teacher has: all, `layers`, or `depth` of the teacher's, rounded, at least 2."""
        if self.as_is:
            return teacher_layers
        return self.layers if self.layers is not None else max(2, round(teacher_layers * self.depth))


class DistillLoss(Model):
    """Weights of the parts of the loss, nats per token each."""

    forward_kl: Annotated[float, Field(ge=0)] = Field(
        default=0.9, description="Towards the teacher's likeliest tokens."
    )
    cross_entropy: Annotated[float, Field(ge=0)] = Field(default=0.1, description="Towards the tokens of the text.")

    @model_validator(mode="after")
    def _something(self) -> "DistillLoss":
        if self.forward_kl + self.cross_entropy <= 0:
            raise ValueError("one of forward_kl and cross_entropy must be above 0")
        return self


class Distill(Training):
    """How the student is trained in float. Rates are peaks."""

    tokens: PositiveInt = Field(default=60_000, description="Training tokens.")
    batch_tokens: PositiveInt = Field(default=1024, description="Tokens of a step; a multiple of seq_len.")
    learning_rate: PositiveFloat = Field(default=2.0e-4, description="Of all weights.")
    loss: DistillLoss = DistillLoss()


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
    threads: PositiveInt | None = Field(default=None, description="null takes the cores that this process may use.")
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

    @field_validator("tasks")
    @classmethod
    def _locate(cls, found: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for entry in found:
            check_entry(entry)
        no_duplicates(tuple(map(task_name, found)))
        return tuple(entry if entry in BUILT_IN else beside_the_file(entry, info) for entry in found)


class Recipe(Model):
    """What to build. Paths in it are absolute once it is loaded from a file."""

    schema_: Literal["edgedistill.recipe/1"] = Field(alias="schema", description="What this file is.")
    name: Name = Field(description="What the recipe is called, in the report too.")
    summary: str = Field(default="", description="A sentence for `recipes list`.")
    teacher: Teacher = Teacher()
    student: Student = Student()
    teach: Teach = Teach()
    distill: Distill = Distill()
    recover: Recover = Recover()
    mixes: Annotated[tuple[MixName, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("q4_0", "q8_0"),
        description=(
            "Built-in ones, which are llama.cpp's; auto_ and one of them, fitted to its bytes; or names under "
            "define_mixes."
        ),
    )
    define_mixes: dict[MixName, OwnMix] = Field(default={}, description="Mixes of your own, by name.")
    export: Annotated[tuple[Literal["gguf", "onnx"], ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("gguf", "onnx"), description="The files that are written of each mix."
    )
    measure: Measure = Measure()

    _unique = field_validator("mixes", "export")(no_duplicates)

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

    def with_teacher(self, model: str | None, revision: str | None = None) -> "Recipe":
        """The same recipe with what the command line says of the teacher; None changes nothing."""
        changes = {name: value for name, value in (("model", model), ("revision", revision)) if value is not None}
        return self.model_copy(update={"teacher": self.teacher.model_copy(update=changes)})

    def decided(self, has_chat_template: bool) -> "Recipe":
        """The same recipe with what `teach` leaves open decided: the style, by whether the teacher chats, and the
        text's window.
        """
        teach = self.teach.styled(has_chat_template)
        if teach.text_window is None:
            lengths = [self.recover.seq_len] if self.student.as_is else [self.distill.seq_len, self.recover.seq_len]
            teach = teach.model_copy(update={"text_window": min(lengths)})
        return self.model_copy(update={"teach": teach})

    def to_dict(self) -> dict[str, Any]:
        """All settings, defaults too, as JSON types."""
        return self.model_dump(mode="json", by_alias=True)


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe file, for editors."""
    return Recipe.model_json_schema(by_alias=True)
