"""A plan, as numbers, as JSON and as a page of text. Bytes, seconds, tokens/s."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedistill.config.recipe import Recipe
from edgedistill.config.target import Target
from edgedistill.errors import DoesNotFitError
from edgedistill.facts import ModelFacts, ModelShape, Start
from edgedistill.machine import free_memory_bytes, usable_cores
from edgedistill.place import CPU, Place, choose_place
from edgedistill.plan.choose import Choice
from edgedistill.plan.device import Alternative, MixPlan, target_facts
from edgedistill.plan.kept import cut_words
from edgedistill.plan.rival import STAGES, RivalPlan
from edgedistill.show import show_bytes
from edgedistill.store import RunFolder, run_bytes
from edgedistill.store.run import RUN


@dataclass(frozen=True)
class StageEstimate:
    """What one stage takes: tokens that it writes, reads or trains on, seconds, bytes of memory and of disk;
    `scratch_bytes` of the disk are free again when it is finished.
    """

    tokens: int = 0
    seconds: float = 0.0
    ram_bytes: int = 0
    disk_bytes: int = 0
    scratch_bytes: int = 0


@dataclass(frozen=True)
class BuildPlan:
    """The build on this machine, by stage in the order of the run."""

    stages: Mapping[str, StageEstimate]
    cores: int
    assumption: str

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of the stages that write, read or train on any."""
        return {name: stage.tokens for name, stage in self.stages.items() if stage.tokens}

    @property
    def seconds_by_stage(self) -> dict[str, float]:
        """Seconds of each stage."""
        return {name: stage.seconds for name, stage in self.stages.items()}

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(self.seconds_by_stage.values())

    @property
    def ram_bytes(self) -> int:
        """The most that a stage needs."""
        return max((stage.ram_bytes for stage in self.stages.values()), default=0)

    @property
    def disk_bytes(self) -> int:
        """The most that lies on the disk at once: what the stages so far wrote, and what one needs beside it."""
        kept = most = 0
        for stage in self.stages.values():
            kept += stage.disk_bytes
            most = max(most, kept + stage.scratch_bytes)
        return most

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "tokens": self.tokens,
            "seconds_by_stage": self.seconds_by_stage,
            "seconds": self.seconds,
            "ram_bytes": self.ram_bytes,
            "ram_bytes_by_stage": {name: stage.ram_bytes for name, stage in self.stages.items()},
            "disk_bytes": self.disk_bytes,
            "disk_bytes_by_stage": {name: stage.disk_bytes for name, stage in self.stages.items()},
            "cores": self.cores,
            "assumption": self.assumption,
        }


@dataclass(frozen=True)
class BuildMachine:
    """What the build may use of the machine that runs it; None where that doesn't count.

    `place` is the device that torch computes on.
    """

    cores: int
    free_memory_bytes: int | None = None
    free_disk_bytes: int | None = None
    place: Place = CPU

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        numbers = {"cores": self.cores, "free_memory_bytes": self.free_memory_bytes}
        gpu = self.place.gpu
        free = {} if gpu is None else {"free_bytes": gpu.free_bytes}
        return {**numbers, "free_disk_bytes": self.free_disk_bytes, "place": {**self.place.facts(), **free}}


def this_machine(folder: Path, device: str = "cpu") -> BuildMachine:
    """What the build may use here, with the disk on which `folder` is or would be made.

    What a run in `folder` has written already counts as free: going on with it writes that no second time.

    Args:
        device: as a recipe's `device`.
    Raises:
        InputError: that device isn't here, or torch can't use it.
    """
    above = folder.absolute()
    while not above.exists():
        above = above.parent
    free = shutil.disk_usage(above).free
    if (folder / RUN).is_file():
        free += run_bytes(RunFolder.find(folder))
    return BuildMachine(usable_cores(), free_memory_bytes(), free, choose_place(device))


@dataclass(frozen=True)
class GpuNeed:
    """The stage of a build that needs the most memory of a GPU."""

    stage: str
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What compile would do.

    Attributes:
        context: tokens planned for.
        formats: of each mix, each tensor's number format.
        notes: what will be done without, a sentence each.
        rival: the teacher in the student's bytes, where it is made too.
        start: the model that the student starts from; None where that is the teacher.
        choice: what the planner chose from, where the recipe leaves the student to it.
        gpu: what the build needs of the machine's GPU, where it computes on one.
    """

    recipe: Recipe
    target: Target
    facts: ModelFacts
    student: ModelShape
    context: int
    mixes: dict[str, MixPlan]
    formats: dict[str, dict[str, str]]
    build: BuildPlan
    machine: BuildMachine
    alternatives: list[Alternative]
    notes: tuple[str, ...] = ()
    rival: RivalPlan | None = None
    start: Start | None = None
    choice: Choice | None = None
    gpu: GpuNeed | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        teacher, student = self.facts, self.student
        return {
            "schema": "edgedistill.plan/1",
            "recipe": {"name": self.recipe.name, "summary": self.recipe.summary},
            "target": target_facts(self.target, self.context).to_json(),
            "teacher": {
                "name": teacher.name,
                "source": teacher.source,
                "kind": teacher.kind,
                "license": teacher.license,
                "parameters": teacher.shape.parameters,
                "layers": teacher.shape.layers,
                "weight_bytes": teacher.weight_bytes,
                "context": teacher.shape.context,
                "stated_context": teacher.stated_context,
                "quantized": teacher.quantized,
            },
            "student": {
                "parameters": student.parameters,
                "layers": student.layers,
                "width": student.width,
                "ffn": student.ffn,
                "heads": student.heads,
                "kv_heads": student.kv_heads,
                "vocab": student.vocab,
                "tied": student.tied,
                "context": student.context,
                "as_is": self.recipe.student.as_is,
                **self._start(),
                "cut": cut_words(student, (self.start.facts if self.start else teacher).shape),
            },
            "mixes": {name: {**mix.to_dict(), "tensors": self.formats[name]} for name, mix in self.mixes.items()},
            "export": list(self.recipe.export),
            "build": self.build.to_dict(),
            "machine": self.machine.to_dict(),
            "alternatives": [asdict(alternative) for alternative in self.alternatives],
            "notes": list(self.notes),
            "choice": None if self.choice is None else self.choice.to_dict(),
            "rival": None if self.rival is None else self.rival.to_dict(),
            "fits": not self.troubles(),
        }

    def _start(self) -> dict[str, Any]:
        """What the student starts from, for `to_dict`; nothing where that is the teacher."""
        if self.start is None:
            return {}
        facts = self.start.facts
        start = {
            "kind": self.recipe.student.kind,
            "name": facts.name,
            "source": facts.source,
            "license": facts.license,
            "same_words": self.start.other_words is None,
        }
        return {"start": start}

    def to_text(self, width: int = 100) -> str:
        """The page that `edgedistill plan` shows, its prose in lines of at most `width` characters."""
        from edgedistill.plan.text import plan_text

        return plan_text(self, width)

    def troubles(self) -> list[str]:
        """Why it can't be built or shipped, a sentence each: no mix fits the device, or this machine is too small."""
        if any(mix.fits for mix in self.mixes.values()):
            return self.machine_troubles()
        return [*(self._device_trouble(mix) for mix in self.mixes.values()), *self.machine_troubles()]

    def machine_troubles(self) -> list[str]:
        """Why this machine is too small to build it, a sentence each."""
        sentences = []
        free_memory, free_disk = self.machine.free_memory_bytes, self.machine.free_disk_bytes
        if free_memory is not None and self.build.ram_bytes > free_memory:
            sentences.append(
                f"building it needs about {show_bytes(self.build.ram_bytes)} of memory; "
                f"{show_bytes(free_memory)} are free here. {self._less_memory(free_memory)}"
            )
        if free_disk is not None and self.build.disk_bytes > free_disk:
            sentences.append(
                f"building it needs about {show_bytes(self.build.disk_bytes)} of disk; "
                f"{show_bytes(free_disk)} are free there. "
                "Free some, or choose an output folder on another disk."
            )
        return [*sentences, *self._gpu_trouble()]

    def _gpu_trouble(self) -> list[str]:
        """That the GPU has too little memory, and what would fit."""
        place, gpu = self.machine.place, self.machine.place.gpu
        if self.gpu is None or gpu is None or gpu.free_bytes is None or self.gpu.bytes <= gpu.free_bytes:
            return []
        free = self.machine.free_memory_bytes
        with_cpu = free is None or self.build.ram_bytes <= free
        other = "--device cpu fits. " if with_cpu else ""
        return [
            f"{self.gpu.stage} needs about {show_bytes(self.gpu.bytes)} of GPU memory; {place.device} ({gpu.name}) has "
            f"{show_bytes(gpu.free_bytes)} free. {other}Or end other programs on it, or lower the stage's batch_tokens."
        ]

    def _less_memory(self, free: int) -> str:
        """What to do about too little memory."""
        without = max((s.ram_bytes for name, s in self.build.stages.items() if name not in STAGES), default=0)
        if self.rival is not None and without <= free:
            return "Close programs, or leave out the teacher on grids in the student's bytes: rival: false."
        return "Close programs, or lower distill.batch_tokens, recover.batch_tokens or teach.parallel."

    def require_fit(self) -> None:
        """Raise DoesNotFitError when the student fits the device in no mix, or the build doesn't fit this machine."""
        _refuse(self.troubles())

    def require_room(self) -> None:
        """Raise DoesNotFitError when the build doesn't fit this machine, whatever fits the device."""
        _refuse(self.machine_troubles())

    @property
    def _smaller(self) -> str:
        """What to do where the student is too big."""
        if self.start is not None:
            return "Choose a smaller student."
        return "Keep fewer layers (student.layers), or choose a smaller teacher."

    def _device_trouble(self, mix: MixPlan) -> str:
        detail = f" = {mix.ram_text}" if mix.ram_bytes > self.target.memory.usable else ""
        return f"{mix.mix} on {self.target.name}: {mix.why}{detail}. {self._smaller}"


def _refuse(troubles: list[str]) -> None:
    if troubles:
        raise DoesNotFitError(" Also, ".join(troubles))
