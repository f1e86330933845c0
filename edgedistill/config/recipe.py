"""Recipe: what to build and how. Budgets are in tokens; defaults are those of the `chat` recipe.

Fields of one part are the settings of one stage, so a change recomputes that stage and what follows it, nothing before.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from edgedistill.config.own_mixes import OwnMix
from edgedistill.config.yaml_file import Model, as_tuple
from edgedistill.errors import did_you_mean
from edgedistill.mixes import MIXES, NAME, QUANTIZED_MIXES, Mix

SCHEMA = "edgedistill.recipe/1"
OWN_PROMPTS = "teacher"  # teach.prompts: the teacher makes up the questions itself

MixName = Annotated[str, Field(pattern=NAME, examples=list(QUANTIZED_MIXES))]
Compute = Literal["bfloat16", "float32"]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


def _no_duplicates(found: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(found)) != len(found):
        raise ValueError("each entry may be there only once")
    return found


def _beside_the_file(found: str | None, info: ValidationInfo) -> str | None:
    """A path in a recipe counts from the recipe's folder."""
    if not found or not info.context:
        return found
    return str((Path(info.context["folder"]) / Path(found).expanduser()).resolve())


class Teacher(Model):
    """Who teaches."""

    model: Text | None = Field(default=None, description="Folder, hub id, .gguf file or pypi:NAME; --teacher comes before it.")
    revision: Text | None = Field(default=None, description="Commit of a hub model; a branch would change under the run.")
    top_k: Annotated[int, Field(ge=1, le=1024)] = Field(default=64, description="Log-probabilities kept of each token; 64 are 384 bytes.")


class Student(Model):
    """What of the teacher is kept."""

    layers: PositiveInt | None = Field(default=None, description="How many layers; null lets `depth` decide.")
    depth: Annotated[float, Field(gt=0, le=1)] = Field(default=0.9, description="Share of the teacher's layers, used while layers is null.")

    def layers_of(self, teacher_layers: int) -> int:
        """Layers that the student of a teacher has: `layers`, or `depth` of the teacher's, rounded, at least 2."""
        return self.layers if self.layers is not None else max(2, round(teacher_layers * self.depth))


class Teach(Model):
    """What the teacher is asked, and how it answers."""

    style: Literal["chat", "text"] = Field(default="chat", description="chat: question and answer; text: plain continuation.")
    prompts: Text = Field(default=OWN_PROMPTS, description="'teacher' (it makes up the questions), or a file of prompts beside the recipe.")
    hints: Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("", "Answer in one or two sentences.", "Answer in a short paragraph."),
        description="Added in turn to the questions that the teacher makes up: small models end short answers and get lost in long ones.",
    )
    prompt_field: Text | None = Field(default=None, description="Field of the prompts file; null takes the first one known.")
    tokens: PositiveInt = Field(default=40_000, description="Kept tokens of the teacher's own writing to collect.")
    text_tokens: Annotated[int, Field(ge=0)] = Field(default=8_000, description="Tokens of plain prose read beside them; 0 for none.")
    text: Text | None = Field(default=None, description="A text file to read, beside the recipe; null: prose that comes along.")
    max_prompt_tokens: PositiveInt = 96
    max_answer_tokens: PositiveInt = 320
    temperature: Annotated[float, Field(ge=0)] = Field(default=1.0, description="Of questions that it makes up, and of plain text.")
    answer_temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    parallel: Annotated[int, Field(ge=1, le=256)] = Field(default=32, description="Answers written at the same time.")
    holdout: Share = Field(default=0.16, description="Share of documents kept from training: half validate it, half judge the result.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1

    @field_validator("prompts", "text")
    @classmethod
    def _locate(cls, found: str | None, info: ValidationInfo) -> str | None:
        return found if found == OWN_PROMPTS else _beside_the_file(found, info)


class DistillLoss(Model):
    """Weights of the parts of the loss, nats per token each."""

    forward_kl: Annotated[float, Field(ge=0)] = 0.9
    cross_entropy: Annotated[float, Field(ge=0)] = 0.1

    @model_validator(mode="after")
    def _something(self) -> "DistillLoss":
        if self.forward_kl + self.cross_entropy <= 0:
            raise ValueError("one of forward_kl and cross_entropy must be above 0")
        return self


class _Training(Model):
    """What both trainings have."""

    tokens: PositiveInt
    seq_len: Annotated[int, Field(ge=16)] = Field(default=512, description="Tokens of a packed row.")
    batch_tokens: PositiveInt
    learning_rate: PositiveFloat
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.1, description="Share of the steps in which the rate rises.")
    checkpoint_seconds: PositiveFloat = Field(default=60.0, description="Seconds between checkpoints; changes no result.")
    validate_every: PositiveInt
    compute: Compute = Field(default="bfloat16", description="Type of the matrix products; the weights stay float32.")

    @model_validator(mode="after")
    def _whole_rows(self) -> "_Training":
        if self.batch_tokens % self.seq_len:
            raise ValueError(f"batch_tokens ({self.batch_tokens}) must be a multiple of seq_len ({self.seq_len})")
        return self


class Distill(_Training):
    """How the student is trained in float. Rates are peaks."""

    tokens: PositiveInt = 60_000
    batch_tokens: PositiveInt = 1024
    learning_rate: PositiveFloat = 2.0e-4
    loss: DistillLoss = DistillLoss()
    validate_every: PositiveInt = Field(default=16, description="Steps between validations.")


class Recover(_Training):
    """How the student is trained on the grid that ships."""

    tokens: PositiveInt = 24_000
    batch_tokens: PositiveInt = 1024
    learning_rate: PositiveFloat = 1.0e-4
    scale_learning_rate: PositiveFloat = 1.0e-3
    fit: Literal["importance", "ggml"] = Field(default="importance", description="How the first scales are found.")
    train: Literal["weights+scales", "weights", "scales"] = "weights+scales"
    loss: Literal["forward_kl"] = "forward_kl"
    patience: PositiveInt = Field(default=4, description="Validations without a better one before it stops.")
    validate_every: PositiveInt = 8
    tokens_by_mix: dict[MixName, PositiveInt] = Field(default={"q8_0": 4_000}, description="Budgets of single mixes instead of `tokens`.")

    # Relative to its step, a q8_0 weight moves sixteen times as far as a q4_0 weight at the same rate.
    rate_by_mix: dict[MixName, PositiveFloat] = Field(default={"q8_0": 0.1}, description="Factors on both rates for single mixes.")

    def rate_of(self, mix: str) -> float:
        """The factor on a mix's learning rates."""
        return self.rate_by_mix.get(mix, 1.0)

    def tokens_of(self, mix: str) -> int:
        """The training budget of a mix."""
        return self.tokens_by_mix.get(mix, self.tokens)


class Measure(Model):
    """What the packed files are judged on."""

    tokens: PositiveInt = Field(default=4096, description="Tokens judged of each text.")
    prompts: Annotated[tuple[Text, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (
        "What is the capital of France?",
        "Write two sentences about the sea.",
        "How do I boil an egg?",
    )
    prefill: PositiveInt = 512
    decode: PositiveInt = 128
    repetitions: PositiveInt = 3
    threads: PositiveInt | None = Field(default=None, description="null takes the cores that this process may use.")
    accuracy_level: Literal[0, 1, 2, 3, 4] = Field(default=4, description="What MatMulNBits rounds activations to; 4 is int8.")


class Recipe(Model):
    """What to build. Paths in it are absolute once it is loaded from a file."""

    schema_: Literal["edgedistill.recipe/1"] = Field(alias="schema")
    name: Name
    summary: str = ""
    teacher: Teacher = Teacher()
    student: Student = Student()
    teach: Teach = Teach()
    distill: Distill = Distill()
    recover: Recover = Recover()
    mixes: Annotated[tuple[MixName, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("q4_0", "q8_0"), description="Built-in ones, which are llama.cpp's, or names under define_mixes."
    )
    define_mixes: dict[MixName, OwnMix] = Field(default={}, description="Mixes of your own, by name.")
    export: Annotated[tuple[Literal["gguf", "onnx"], ...], BeforeValidator(as_tuple), Field(min_length=1)] = ("gguf", "onnx")
    measure: Measure = Measure()

    _unique = field_validator("mixes", "export")(_no_duplicates)

    @model_validator(mode="after")
    def _known_mixes(self) -> "Recipe":
        for name in self.define_mixes:
            if name in MIXES:
                raise ValueError(f"define_mixes.{name} has the name of a built-in mix; give it another")
        known = (*QUANTIZED_MIXES, *self.define_mixes)
        places = {"mixes": self.mixes, "recover.tokens_by_mix": self.recover.tokens_by_mix, "recover.rate_by_mix": self.recover.rate_by_mix}
        for place, names in places.items():
            for name in names:
                if name not in known:
                    allowed = f"it must be one of {', '.join(known)}, or defined under define_mixes"
                    raise ValueError(f"{place} has '{name}'; {allowed}.{did_you_mean(name, known)}")
        return self

    def mix(self, name: str) -> Mix:
        """A mix by its name in `mixes`, with its definition."""
        return self.define_mixes[name].mix(name) if name in self.define_mixes else Mix(name, name)

    def with_teacher(self, model: str | None, revision: str | None = None) -> "Recipe":
        """The same recipe with what the command line says of the teacher; None changes nothing."""
        changes = {name: value for name, value in (("model", model), ("revision", revision)) if value is not None}
        return self.model_copy(update={"teacher": self.teacher.model_copy(update=changes)})

    def to_dict(self) -> dict[str, Any]:
        """All settings, defaults too, as JSON types."""
        return self.model_dump(mode="json", by_alias=True)


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe file, for editors."""
    return Recipe.model_json_schema(by_alias=True)
