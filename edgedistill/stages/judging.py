"""The measure stage: which files are measured, on which held-out texts (one of each source of the training text), what they are asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.config.tasks import REQUESTS_FILE, task_name, task_path
from edgedistill.export import GGUF_NAME, ONNX_NAME
from edgedistill.machine import fingerprint, usable_cores
from edgedistill.plan.here import HERE
from edgedistill.stages.build import Build, settings_of
from edgedistill.store.files import file_sha256
from edgedistill.store.marks import StageResult

if TYPE_CHECKING:
    from edgedistill.measure.artifacts import Artifact
    from edgedistill.measure.judge import Judge

CHATS, WRITTEN, FREE, PROSE, OWN = "held-out chats", "held-out text", "held-out free text", "held-out prose", "held-out own text"


def measure(
    build: Build,
    taught: StageResult,
    student: StageResult,
    floats: StageResult,
    asked: StageResult | None,
    rounded: Mapping[str, StageResult],
    exported: Mapping[tuple[str, str], StageResult],
    captured: StageResult | None = None,
) -> StageResult:
    """Every packed file in its runtime on this machine.

    Args:
        taught: the training text, whose held-out part judges.
        student, floats: the float student as a folder, and its F16 file's stage.
        asked: the teacher's F16 file's stage; None where it is a GGUF file itself, or the float student is the teacher.
        rounded: by mix; `exported` by (kind, mix).
        captured: its inputs' mean squares weigh the errors by layer; None: all inputs count alike.
    """
    teacher = build.teacher if build.facts.kind == "gguf" else asked.path / GGUF_NAME if asked else None

    def write(work: Path) -> None:
        from edgedistill.export.weights import open_weights
        from edgedistill.measure.stage import measure
        from edgedistill.teach.capture import load_importance

        measure(
            _artifacts(build, floats, teacher, rounded, exported),
            _judges(build, taught),
            {"student": student.path, **({} if build.as_is else {"teacher": build.teacher})},
            build.recipe,
            build.command,
            build.target.name == HERE,
            work,
            build.progress,
            lambda path: open_weights(path).tensors,
            load_importance(captured.path) if captured else None,
        )

    settings = {
        "measure": settings_of(build.recipe.measure),
        "style": build.recipe.teach.style,
        "machine": fingerprint(),
        "cores": usable_cores(),
        "target": build.target.name,
    }
    inputs = [taught, student, floats, *([asked] if asked else []), *rounded.values(), *exported.values()]
    outside = {"teacher": build.teacher_hash, **_item_hashes(build)}
    return build.stage("measure", settings, inputs + ([captured] if captured else []), write, outside)


def _item_hashes(build: Build) -> dict[str, str]:
    """What the questions and requests are, whatever their files are called."""
    wanted = build.recipe.measure
    files = {f"task {task_name(entry)}": task_path(entry) for entry in wanted.tasks}
    if wanted.refusal_items:
        files["requests"] = REQUESTS_FILE
    return {label: file_sha256(path) for label, path in files.items()}


def _judges(build: Build, taught: StageResult) -> "list[Judge]":
    from edgedistill.data.prose import read_prose
    from edgedistill.measure.judge import Judge, limit_documents, prose_documents
    from edgedistill.signals import shards

    teach, tokens = build.recipe.teach, build.recipe.measure.tokens
    chats = CHATS if teach.style == "chat" else WRITTEN
    found = []
    for wanted, name, source, prefix in (
        (teach.tokens, chats, "written by the teacher, never trained on", shards.WRITTEN),
        (teach.free_tokens, FREE, "written freely by the teacher, never trained on", shards.FREE),
    ):
        if wanted:
            found.append(Judge(name, source, limit_documents(list(shards.iter_shards(taught.path / f"{prefix}judge")), tokens)))
    prose = prose_documents(build.teacher, read_prose("judge", teach.text), tokens)
    name, source = (OWN, "the last tenth of the text given") if teach.text else (PROSE, "prose that no training saw")
    return [*found, Judge(name, source, prose)]


def _artifacts(
    build: Build,
    floats: StageResult,
    teacher: Path | None,
    rounded: Mapping[str, StageResult],
    exported: Mapping[tuple[str, str], StageResult],
) -> "list[Artifact]":
    from functools import partial

    from edgedistill.measure.artifacts import Artifact

    one = partial(Artifact.of, run=build.run.path)
    artifacts = []
    if teacher is not None:
        artifacts.append(one("model as given" if build.as_is else "teacher", "teacher", None, "llama.cpp", teacher))
    artifacts.append(one("float model" if build.as_is else "float student", "float", None, "llama.cpp", floats.path / GGUF_NAME))
    for mix in build.recipe.mixes:
        artifacts.append(one(f"{mix} rounded", "rounded", mix, "llama.cpp", rounded[mix].path / GGUF_NAME))
        for kind, runtime, name in (("gguf", "llama.cpp", GGUF_NAME), ("onnx", "onnxruntime", ONNX_NAME)):
            if (kind, mix) in exported:
                artifacts.append(one(f"{mix} recovered, {runtime}", "recovered", mix, runtime, exported[kind, mix].path / name))
    return artifacts
