"""The stages that write model files: the float models and plain rounding, to compare with, and what ships."""

from pathlib import Path

from edgedistill.export import GGUF_NAME
from edgedistill.mixes import Mix, assign_formats
from edgedistill.stages.build import Build, names_of
from edgedistill.store.marks import StageResult


def teacher_gguf(build: Build) -> StageResult:
    """The teacher of a folder as an F16 file: llama.cpp writes with it, and it is a row to compare with."""

    def write(work: Path) -> None:
        from edgedistill.export.stage import export_float

        export_float(build.teacher, build.facts.shape, work / GGUF_NAME, build.metadata("f16", "teacher"))

    return build.stage("teacher-gguf", {"mix": "f16"}, [], write, {"teacher": build.teacher_hash})


def float_gguf(build: Build, student: StageResult) -> StageResult:
    """The float student as an F16 file."""

    def write(work: Path) -> None:
        from edgedistill.export.stage import export_float

        export_float(student.path, build.shape, work / GGUF_NAME, build.metadata("f16", "float"))

    return build.stage("float-gguf", {"mix": "f16"}, [student], write)


def rounded(build: Build, mix: Mix, student: StageResult) -> StageResult:
    """Plain rounding as llama.cpp's quantizer does it: what recovery is compared with."""
    formats = assign_formats(build.shape, mix)

    def write(work: Path) -> None:
        from edgedistill.export.stage import export_rounded

        export_rounded(
            student.path, build.shape, mix.name, formats, work / GGUF_NAME, build.metadata(mix.name, "rounded")
        )

    return build.stage(f"rounded-{mix.name}", {"mix": mix.name, "formats": names_of(formats)}, [student], write)


def exported(build: Build, kind: str, mix: str, recovered: StageResult) -> StageResult:
    """The packed file, "gguf" or "onnx", read back and compared bit for bit before it counts."""
    metadata = build.metadata(mix, "recovered") | {"run": recovered.key}
    level = build.recipe.measure.accuracy_level

    def write(work: Path) -> None:
        from edgedistill.export.stage import export_recovered

        export_recovered(kind, recovered.path, build.shape, work, metadata, level)

    settings = {"metadata": metadata, **({"accuracy_level": level} if kind == "onnx" else {})}
    return build.stage(f"{kind}-{mix}", settings, [recovered], write)
