"""The stages that measure: which files, on which held-out texts (one of each source of the training text), what they
are asked.

    judges ─► reference-student, reference-teacher ─► measure-LABEL, one a file ─┐
    a mix's files ─► layers-MIX ─────────────────────────────────────────────────┼─► measure
    all files ─► speeds ─────────────────────────────────────────────────────────┘

A row's key hashes the file's own bytes, the judges, the references, the questions, the recipe's `measure` part and the
machine; not what the file is called, nor the files beside it. So another mix, or recovery, finds every row that was
measured. `speeds` times all files in
turn, since only trials of one sitting can be compared: another file among them is another sitting.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.config.tasks import REQUESTS_FILE, task_name, task_path
from edgedistill.export import GGUF_NAME, ONNX_NAME
from edgedistill.machine import fingerprint, usable_cores
from edgedistill.stages.build import Build, settings_of
from edgedistill.store.files import file_sha256
from edgedistill.store.marks import StageResult

if TYPE_CHECKING:
    from edgedistill.measure.artifacts import Artifact
    from edgedistill.measure.items import Asked
    from edgedistill.measure.judge import Judge

# Of how files are measured, what no row depends on, and tasks, which count by their content.
ELSEWHERE = {"repetitions", "accuracy_level", "tasks"}

CHATS, WRITTEN, FREE, PROSE, OWN = (
    "held-out chats",
    "held-out text",
    "held-out free text",
    "held-out prose",
    "held-out own text",
)


def measure(
    build: Build,
    judges: StageResult,
    student: StageResult,
    floats: StageResult,
    asked: StageResult | None,
    rounded: Mapping[str, StageResult],
    exported: Mapping[tuple[str, str], StageResult],
    captured: StageResult | None,
) -> StageResult:
    """Every packed file in its runtime on this machine.

    Args:
        judges: the held-out texts' stage.
        student, floats: the float student as a folder, and its F16 file's stage.
        asked: the teacher's F16 file's stage; None where it is a GGUF file itself, or the float student is the teacher.
        rounded: by mix; `exported` by (kind, mix).
        captured: its inputs' mean squares weigh the errors by layer; None: all inputs count alike.
    """
    teacher = build.teacher if build.facts.kind == "gguf" else asked.path / GGUF_NAME if asked else None
    artifacts = _artifacts(build, floats, teacher, rounded, exported)
    references = _references(build, judges, student)
    rows = [_row(build, artifact, judges, student, references) for artifact in artifacts]
    layers = {mix: _layers(build, mix, artifacts, student, captured) for mix in rounded}
    times = _speeds(build, artifacts)

    def write(work: Path) -> None:
        from edgedistill.measure.judge import load_judges
        from edgedistill.measure.stage import join_rows

        folders, by_mix = [row.path for row in rows], {mix: stage.path for mix, stage in layers.items()}
        texts, asked_for = load_judges(judges.path), _asked(build, student)
        join_rows(
            artifacts, folders, times.path, by_mix, texts, asked_for, build.recipe, build.command, on_target, work
        )

    on_target = build.target.this_machine
    names = {"target": build.target.name, "on_target": on_target}
    settings = {**names, "rows": [[a.label, a.kind, a.mix, a.file] for a in artifacts]}
    return build.stage("measure", settings, [judges, *rows, *layers.values(), times], write, item_hashes(build))


def of_training(build: Build, taught: StageResult) -> StageResult:
    """The judges of a run that trains: the held-out part of its training text, and prose that no training saw."""

    def make() -> "list[Judge]":
        return [*_written(build, taught), _prose(build)]

    teach = build.recipe.teach
    return _judges(
        build, taught, {"style": teach.style, "written": bool(teach.tokens), "free": bool(teach.free_tokens)}, make
    )


def of_comparison(build: Build, chats: StageResult | None) -> StageResult:
    """The judges of a comparison, whether it trains or not: the chats that the model wrote for that, if it chats, and
    prose.
    """

    def make() -> "list[Judge]":
        from edgedistill.measure.judge import Judge, limit_documents
        from edgedistill.teach.stage import held_out_documents

        found = limit_documents(held_out_documents(chats.path), build.recipe.measure.tokens) if chats else ()
        return [
            *([Judge(CHATS, "written by the model for this, never trained on", found)] if found else []),
            _prose(build),
        ]

    return _judges(build, chats, {}, make)


def _judges(
    build: Build, written: StageResult | None, settings: Mapping[str, Any], make: "Callable[[], list[Judge]]"
) -> StageResult:
    """The texts that all files are judged on, as a stage.

    Args:
        written: the stage with what a model wrote of them; None where it wrote nothing.
        settings: what they depend on beside their number of tokens and the user's texts.
        make: gives them.
    """

    def write(work: Path) -> None:
        from edgedistill.measure.judge import save_judges

        save_judges(make(), work)

    teach = build.recipe.teach
    settings = {"tokens": build.recipe.measure.tokens, "own": bool(teach.text), **settings}
    texts = {f"text {number}": file_sha256(Path(path)) for number, path in enumerate(teach.text or ())}
    return build.stage(
        "judges", settings, [written] if written else [], write, {"teacher": build.teacher_hash, **texts}
    )


def _references(build: Build, judges: StageResult, student: StageResult) -> dict[str, StageResult]:
    """What the float models, by "student" and "teacher", make of the judges."""

    def write(what: str, model: Path, work: Path) -> None:
        from edgedistill.measure.judge import REFERENCE, load_judges, make_reference

        make_reference(model, load_judges(judges.path), work / REFERENCE, f"float {what}", build.progress)

    found = {
        "student": build.stage("reference-student", {}, [judges, student], partial(write, "student", student.path))
    }
    if not build.as_is:
        outside = {"teacher": build.teacher_hash}
        found["teacher"] = build.stage(
            "reference-teacher", {}, [judges], partial(write, "teacher", build.teacher), outside
        )
    return found


def _row(
    build: Build, artifact: "Artifact", judges: StageResult, student: StageResult, references: Mapping[str, StageResult]
) -> StageResult:
    """One file judged."""

    def write(work: Path) -> None:
        from edgedistill.measure.judge import REFERENCE, load_judges, load_reference
        from edgedistill.measure.row import Work, measure_row

        # Read once for all rows: what a reference makes of a position is then worked out once too.
        views = {
            name: build.once(f"reference {name}", partial(load_reference, result.path / REFERENCE))
            for name, result in references.items()
        }
        measure_row(
            artifact, Work(load_judges(judges.path), views, _asked(build, student), build.recipe, work, build.progress)
        )

    name = "measure-" + re.sub(r"[^a-z0-9._]+", "-", artifact.label.lower()).strip("-")
    wanted = {key: value for key, value in settings_of(build.recipe.measure).items() if key not in ELSEWHERE}
    settings = {
        "measure": wanted,
        "style": build.recipe.teach.style,
        "runtime": artifact.runtime,
        "worst": artifact.kind in ("rounded", "recovered"),
        "machine": fingerprint(),
        "cores": usable_cores(),
    }
    return build.stage(
        name, settings, [judges, *references.values()], write, {"file": artifact.sha256, **item_hashes(build)}
    )


def _asked(build: Build, student: StageResult) -> "Asked":
    """The recipe's questions and requests that fit the model."""
    from edgedistill.measure.items import choose_items

    return build.once("asked", lambda: choose_items(build.recipe.measure, student.path, build.progress))


def item_hashes(build: Build) -> dict[str, str]:
    """What the questions and requests are, whatever their files are called."""
    wanted = build.recipe.measure
    files = {f"task {task_name(entry)}": task_path(entry) for entry in wanted.tasks}
    if wanted.refusal_items:
        files["requests"] = REQUESTS_FILE
    return {label: file_sha256(path) for label, path in files.items()}


def _layers(
    build: Build, mix: str, artifacts: "list[Artifact]", student: StageResult, captured: StageResult | None
) -> StageResult:
    """A mix's errors by layer, of its files in llama.cpp."""
    files = {a.kind: a for a in artifacts if (a.mix, a.runtime) == (mix, "llama.cpp")}

    def write(work: Path) -> None:
        from edgedistill.export.weights import open_weights
        from edgedistill.measure.stage import find_layers
        from edgedistill.teach.capture import load_importance

        squares = load_importance(captured.path) if captured else None
        paths = {kind: artifact.path for kind, artifact in files.items()}
        find_layers(paths, student.path, lambda path: open_weights(path).tensors, squares, mix, work, build.progress)

    hashes = {kind: artifact.sha256 for kind, artifact in files.items()}
    return build.stage(f"layers-{mix}", {}, [student, *([captured] if captured else [])], write, hashes)


def _speeds(build: Build, artifacts: "list[Artifact]") -> StageResult:
    """All files timed in turn."""

    def write(work: Path) -> None:
        from edgedistill.measure.stage import time_files

        time_files(artifacts, build.recipe, work, build.progress)

    wanted = build.recipe.measure
    settings = {
        "prefill": wanted.prefill,
        "decode": wanted.decode,
        "rounds": wanted.repetitions,
        "threads": wanted.threads,
    }
    files = {artifact.label: artifact.sha256 for artifact in artifacts}
    return build.stage("speeds", {"machine": fingerprint(), "cores": usable_cores(), **settings}, [], write, files)


def _written(build: Build, taught: StageResult) -> "list[Judge]":
    from edgedistill.measure.judge import Judge, limit_documents
    from edgedistill.signals import shards

    teach, tokens = build.recipe.teach, build.recipe.measure.tokens
    chats = CHATS if teach.style == "chat" else WRITTEN
    found = []
    for wanted, name, source, prefix in (
        (teach.tokens, chats, "written by the teacher, never trained on", shards.WRITTEN),
        (teach.free_tokens, FREE, "written freely by the teacher, never trained on", shards.FREE),
    ):
        if wanted:
            found.append(
                Judge(name, source, limit_documents(list(shards.iter_shards(taught.path / f"{prefix}judge")), tokens))
            )
    return found


def _prose(build: Build) -> "Judge":
    from edgedistill.data.prose import passages
    from edgedistill.measure.judge import Judge, prose_documents

    text = build.recipe.teach.text
    name, source = (OWN, "the last tenth of the text given") if text else (PROSE, "prose that no training saw")
    return Judge(name, source, prose_documents(build.teacher, passages("judge", text), build.recipe.measure.tokens))


def _artifacts(
    build: Build,
    floats: StageResult,
    teacher: Path | None,
    rounded: Mapping[str, StageResult],
    exported: Mapping[tuple[str, str], StageResult],
) -> "list[Artifact]":
    from edgedistill.measure.artifacts import Artifact

    one = partial(Artifact.of, run=build.run.path)
    artifacts = []
    if teacher is not None:
        artifacts.append(one("model as given" if build.as_is else "teacher", "teacher", None, "llama.cpp", teacher))
    artifacts.append(
        one("float model" if build.as_is else "float student", "float", None, "llama.cpp", floats.path / GGUF_NAME)
    )
    for mix in build.recipe.mixes:
        artifacts.append(one(f"{mix} rounded", "rounded", mix, "llama.cpp", rounded[mix].path / GGUF_NAME))
        for kind, runtime, name in (("gguf", "llama.cpp", GGUF_NAME), ("onnx", "onnxruntime", ONNX_NAME)):
            if (kind, mix) in exported:
                artifacts.append(
                    one(f"{mix} recovered, {runtime}", "recovered", mix, runtime, exported[kind, mix].path / name)
                )
    return artifacts
