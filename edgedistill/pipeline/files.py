"""The stages that write model files: the float models and plain rounding, to compare with, and what ships."""

from pathlib import Path

from edgedistill.export import GGUF_NAME
from edgedistill.facts import ModelShape
from edgedistill.mixes import Mix, assign_formats
from edgedistill.pipeline.chosen_mix import chosen_mix, fit_inputs, mix_settings
from edgedistill.pipeline.context import Context
from edgedistill.pipeline.estimate import Estimates
from edgedistill.pipeline.stage import Finished, Json, Stage

TEACHER_FILE = "teacher-gguf"
FLOAT_FILE = "float-gguf"


def teacher_gguf(context: Context) -> Stage:
    """The teacher of a folder as an F16 file: llama.cpp writes with it, and it is a row to compare with."""

    def work(folder: Path, done: Finished) -> None:
        _write_float(context, done.locate(context.teacher_files.place), context.facts.shape, folder, "teacher")

    outside = {"teacher": context.teacher_files}
    estimate = Estimates(context).written()
    return Stage(TEACHER_FILE, "written", work, {"mix": "f16"}, outside=outside, estimate=estimate)


def float_gguf(context: Context, student: str) -> Stage:
    """The float student, of the stage `student`, as an F16 file."""

    def work(folder: Path, done: Finished) -> None:
        _write_float(context, done.folder(student), context.shape, folder, "float")

    return Stage(FLOAT_FILE, "written", work, {"mix": "f16"}, (student,), estimate=Estimates(context).written())


def rounded(context: Context, mix: Mix, student: str) -> Stage:
    """Plain rounding as llama.cpp's quantizer does it: what recovery is compared with."""

    def work(folder: Path, done: Finished) -> None:
        from edgedistill.export.exports import export_rounded

        formats = assign_formats(context.shape, chosen_mix(mix, done))
        metadata = _texts(context, mix.name, "rounded")
        export_rounded(done.folder(student), context.shape, mix.name, formats, folder / GGUF_NAME, metadata)

    name, settings = f"rounded-{mix.name}", mix_settings(context, mix)
    inputs = (student, *fit_inputs(mix))
    estimate = Estimates(context).rounded(mix)
    return Stage(name, "rounded", work, settings, inputs, mix=mix.name, estimate=estimate)


def exported(context: Context, kind: str, mix: Mix) -> Stage:
    """The packed file, "gguf" or "onnx", read back and compared bit for bit before it counts."""
    level = context.recipe.measure.accuracy_level
    recovered = f"recover-{mix.name}"

    def work(folder: Path, done: Finished) -> None:
        from edgedistill.export.exports import export_recovered

        metadata = _texts(context, mix.name, "recovered") | {"run": done.results[recovered].key}
        export_recovered(kind, done.folder(recovered), context.shape, folder, metadata, level)

    settings: dict[str, Json] = {"metadata": context.metadata(mix.name, "recovered")}
    if kind == "onnx":
        settings["accuracy_level"] = level
    name, estimate = exported_stage(kind, mix.name), Estimates(context).exported(mix)
    return Stage(name, kind, work, settings, (recovered,), mix=mix.name, estimate=estimate)


def exported_stage(kind: str, mix: str) -> str:
    """The name of the stage that packs a mix."""
    return f"{kind}-{mix}"


def _write_float(context: Context, model: Path, shape: ModelShape, folder: Path, origin: str) -> None:
    from edgedistill.export.exports import export_float

    export_float(model, shape, folder / GGUF_NAME, _texts(context, "f16", origin))


def _texts(context: Context, mix: str, origin: str) -> dict[str, str]:
    return {key: str(value) for key, value in context.metadata(mix, origin).items()}
