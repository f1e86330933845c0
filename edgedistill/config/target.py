"""Target: what a device offers and what the model must not exceed. Every figure has a source; null: nobody measured it.

In the file figures carry units ('8 GiB', '89.6 GB/s'); here they are numbers: bytes, bytes/s, FLOP/s, tokens, seconds.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from edgedistill.config.fields import Name, PositiveInt, Text
from edgedistill.config.yaml_file import Model, as_tuple
from edgedistill.units import EXAMPLES, parse

SCHEMA = "edgedistill.target/1"
HERE = "this-machine"  # the name that stands for the machine that the command runs on; plan/here.py describes it


def _read(quantity: str) -> BeforeValidator:
    return BeforeValidator(lambda text: parse(text, quantity))


def _read_whole(quantity: str) -> BeforeValidator:
    return BeforeValidator(lambda text: round(parse(text, quantity)))


def _as_text(quantity: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "examples": [EXAMPLES[quantity]]})


Bytes = Annotated[int, _read_whole("size"), _as_text("size")]
BytesPerSecond = Annotated[float, _read("bandwidth"), _as_text("bandwidth")]
FlopsPerSecond = Annotated[float, _read("compute"), _as_text("compute")]
Tokens = Annotated[int, _read_whole("length"), _as_text("length")]
TokensPerSecond = Annotated[float, _read("rate"), _as_text("rate")]
Seconds = Annotated[float, _read("time"), _as_text("time")]
Efficiency = Annotated[float, Field(gt=0, le=1)]
Source = Annotated[str, Field(min_length=1, description="Where the figures come from, and how they were derived.")]


class Memory(Model):
    """RAM, or VRAM where the model runs on a graphics card."""

    total: Bytes = Field(description="What the device has.")
    usable: Bytes = Field(description="What is left for the model beside the system and other programs.")
    source: Source

    @model_validator(mode="after")
    def _part_of_total(self) -> "Memory":
        if self.usable > self.total:
            raise ValueError(f"usable ({self.usable} bytes) must be at most total ({self.total} bytes)")
        return self


class Bandwidth(Model):
    """Memory bandwidth: what bounds decoding."""

    peak: BytesPerSecond | None = Field(description="By the data sheet; what is predicted with, where it is there.")
    measured: BytesPerSecond | None = Field(default=None, description="What a benchmark reached.")
    source: Source

    @property
    def best(self) -> float | None:
        """Bytes/s to predict with: the peak, which `efficiency.decode` was derived from; where there is none, what was
        measured.
        """
        return self.peak if self.peak is not None else self.measured


class EfficiencyShares(Model):
    """Share of the peaks that a runtime reaches."""

    decode: Efficiency | None = Field(description="Share of the peak bandwidth reached while decoding.")
    prefill: Efficiency | None = Field(description="Share of the peak compute reached in prefill.")
    source: Source


class ComputePower(Model):
    """Arithmetic: what bounds prefill."""

    flops: FlopsPerSecond | None = Field(description="Peak, in the type that the runtime multiplies in.")
    source: Source


class Processor(Model):
    """A processor or graphics card."""

    cores: PositiveInt = Field(description="Cores, or a graphics card's multiprocessors.")
    isa: Annotated[tuple[Text, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Instruction sets that matter."
    )
    source: Source


class Limits(Model):
    """What the model must keep to; null is no limit. `context` is also the length that the KV cache is planned for."""

    context: Tokens = Field(default=2048, description="Tokens of context that are planned for.")
    file: Bytes | None = Field(default=None, description="Largest file.")
    ttft: Seconds | None = Field(default=None, description="Time to first token after a prompt of 512 tokens.")
    decode: TokensPerSecond | None = Field(default=None, description="Least tokens/s while answering.")


class Target(Model):
    """A device."""

    schema_: Literal["edgedistill.target/1"] = Field(alias="schema", description="What this file is.")
    name: Name = Field(description="What the device is called, in the report too.")
    title: Text = Field(description="The device in a few words.")
    memory: Memory
    bandwidth: Bandwidth
    efficiency: EfficiencyShares
    compute: ComputePower
    cpu: Processor | None = None
    gpu: Processor | None = None
    runtimes: Annotated[
        tuple[Literal["llama.cpp", "onnxruntime"], ...], BeforeValidator(as_tuple), Field(min_length=1)
    ] = Field(description="What runs there.")
    connection: Literal["local", "none"] = Field(
        default="none", description="local: a machine of this kind can measure for itself."
    )
    this_machine: bool = Field(
        default=False,
        description="Whether the file describes the machine that the command runs on, so that what is measured there "
        "counts as measured on the target.",
    )
    limits: Limits = Limits()

    def limited(self, most_file: int | None, least_decode: float | None, most_memory: int | None) -> "Target":
        """The same device with narrower limits: bytes of a file, tokens/s, bytes of memory; None leaves one as is."""
        file = min((each for each in (self.limits.file, most_file) if each is not None), default=None)
        decode = max((each for each in (self.limits.decode, least_decode) if each is not None), default=None)
        usable = min(self.memory.usable, most_memory or self.memory.usable)
        return self.model_copy(
            update={
                "limits": self.limits.model_copy(update={"file": file, "decode": decode}),
                "memory": self.memory.model_copy(update={"usable": usable}),
            }
        )

    def with_context(self, tokens: int) -> "Target":
        """The same device with so many tokens of context planned for."""
        return self.model_copy(update={"limits": self.limits.model_copy(update={"context": tokens})})

    def to_dict(self) -> dict[str, Any]:
        """All figures in base units, as JSON types."""
        return self.model_dump(mode="json", by_alias=True)


def target_schema() -> dict[str, Any]:
    """JSON Schema of a target file, for editors."""
    return Target.model_json_schema(by_alias=True)
