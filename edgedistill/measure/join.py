"""All files of a run as one table (measure.json): their rows, the speeds that were taken in turn, the errors by layer
of each mix's files, paired differences from the float model, and the records behind every number.

A row is a stage of its own (pipeline/judging.py says what its key hashes): a file that was judged is never judged
again, whatever else the run compares it with. Speeds are measured anew with each set of files: see speed.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgedistill.machine import machine_facts
from edgedistill.measure.answers import differences
from edgedistill.measure.items import Items
from edgedistill.measure.judge import Judge
from edgedistill.measure.kept import write_whole
from edgedistill.measure.records import RecordSource, layer_record, row_records
from edgedistill.measure.row import load_row
from edgedistill.measure.speed import load_speeds
from edgedistill.measure.task_answers import with_differences
from edgedistill.results.measurement import JudgedText, Layers, Measurement, RowFigures, Sample, TaskAnswers, WonBack
from edgedistill.results.record import Record
from edgedistill.results.row import LLAMA_CPP, RIVAL, Artifact, Row, Speed

FILE = "measure.json"


@dataclass(frozen=True)
class MeasuredFile:
    """A packed file and what the stages before measured of it."""

    artifact: Artifact
    figures: RowFigures
    speed: Speed


@dataclass(frozen=True)
class Setting:
    """What all files of a run share.

    Attributes:
        judges: the held-out texts.
        items: questions and requests.
        prompts: the sample prompts.
        command: the command line that repeats the numbers.
        on_target: whether this machine is the target.
    """

    judges: Sequence[Judge]
    items: Items
    prompts: Sequence[str]
    command: str
    on_target: bool


def load_files(artifacts: Sequence[Artifact], rows: Sequence[Path], speeds: Path) -> list[MeasuredFile]:
    """What was measured of each artifact: its row from its folder of `rows`, its speed from what `time_files` wrote."""
    by_label = load_speeds(speeds)
    return [
        MeasuredFile(artifact, load_row(folder), by_label[artifact.label])
        for artifact, folder in zip(artifacts, rows, strict=True)
    ]


def join_rows(files: Sequence[MeasuredFile], layers: Mapping[str, Layers], setting: Setting) -> Measurement:
    """The whole measurement.

    Args:
        files: in the order of the table.
        layers: each mix's errors by layer; empty where nobody looked.
        setting: what they share.
    """
    source = RecordSource(machine_facts(), setting.command)
    rows = _over_rival(_with_differences([_row(file) for file in files], files), files)
    rows = _with_task_differences(rows, files)
    errors = {mix: each.tensors for mix, each in layers.items()}
    records: list[Record] = []
    for file, row in zip(files, rows, strict=True):
        records += row_records(file.artifact, row, source)
    for artifact in (file.artifact for file in files):
        if artifact.runtime == LLAMA_CPP and artifact.mix is not None and artifact.mix in errors:
            record = layer_record(artifact, errors[artifact.mix], source)
            records += [record] if record else []
    return Measurement(
        machine=source.machine,
        on_target=setting.on_target,
        judges=tuple(JudgedText(judge.name, judge.source, judge.tokens) for judge in setting.judges),
        task=setting.items.task.facts if setting.items.task else None,
        task_sets=setting.items.task_sets(),
        rows=tuple(rows),
        recovered=recovered_shares(rows, [judge.name for judge in setting.judges]),
        layers=errors,
        layers_by=next((each.by for each in layers.values()), None),
        samples=tuple(_sample(prompt, files) for prompt in setting.prompts),
        records=tuple(records),
    )


def save_measurement(measurement: Measurement, folder: Path) -> None:
    """Write `measure.json` (schema edgedistill.measure/1)."""
    write_whole(folder / FILE, measurement.to_json(), indent=1)


def _row(file: MeasuredFile) -> Row:
    """A row as measure.json has it: what the file is and where it lies, and what was measured of it."""
    artifact, figures = file.artifact, file.figures
    return Row(
        label=artifact.label,
        kind=artifact.kind,
        mix=artifact.mix,
        runtime=artifact.runtime,
        file=artifact.file,
        sha256=artifact.sha256,
        file_bytes=artifact.file_bytes,
        quality=dict(figures.quality),
        speed=file.speed,
        task=figures.task.score if figures.task else None,
        tasks=figures.tasks,
        refusals=figures.refusals,
        worst=figures.worst,
    )


def _with_differences(rows: Sequence[Row], files: Sequence[MeasuredFile]) -> list[Row]:
    """The rows, each with its paired differences from the first float model's answers, where there is one."""
    base = next((file for file in files if file.artifact.kind == "float"), None)
    if base is None:
        return list(rows)
    base_bits = base.figures.bits
    others = [file for file in files if file is not base]
    comparisons = sum(len(base_bits.keys() & file.figures.bits.keys()) for file in others)
    compared = []
    for row, file in zip(rows, files, strict=True):
        pairs = {} if file is base else differences(base_bits, file.figures.bits, comparisons)
        compared.append(replace(row, differences=pairs))
    return compared


def _over_rival(rows: Sequence[Row], files: Sequence[MeasuredFile]) -> list[Row]:
    """The packed rows, each with its paired differences from the rival's answers, where there is a rival."""
    rival = next((file for file in files if file.artifact.kind == RIVAL), None)
    if rival is None:
        return list(rows)
    bits = rival.figures.bits
    # One file is compared with it in the end, on each set of items.
    return [
        replace(row, over_rival=differences(bits, file.figures.bits, len(bits))) if row.packed else row
        for row, file in zip(rows, files, strict=True)
    ]


def _with_task_differences(rows: Sequence[Row], files: Sequence[MeasuredFile]) -> list[Row]:
    """The rows, each with its paired differences from the answers of the float model, the teacher and the rival to the
    user's task.
    """
    bases: dict[str, tuple[MeasuredFile, TaskAnswers]] = {}
    for file in files:
        if file.artifact.kind in ("float", "teacher", RIVAL) and file.figures.task is not None:
            bases.setdefault(file.artifact.kind, (file, file.figures.task))
    compared = []
    for row, file in zip(rows, files, strict=True):
        task = file.figures.task
        if task is None:
            compared.append(row)
            continue
        others = {name: answers for name, (base, answers) in bases.items() if base is not file}
        compared.append(replace(row, task=with_differences(task, others, len(files) - 1)))
    return compared


def _sample(prompt: str, files: Sequence[MeasuredFile]) -> Sample:
    return Sample(prompt, {file.artifact.label: file.figures.samples[prompt] for file in files})


def recovered_shares(rows: Sequence[Row], judges: Sequence[str]) -> dict[str, dict[str, WonBack]]:
    """By mix and judge, what recovery won back of rounding's loss; both files in llama.cpp, KL to the float student."""
    in_llama = {(row.kind, row.mix): row for row in rows if row.runtime == LLAMA_CPP}
    base = in_llama.get(("float", None))
    shares: dict[str, dict[str, WonBack]] = {}
    for (kind, mix), recovered in in_llama.items():
        rounded = in_llama.get(("rounded", mix))
        if kind == "recovered" and mix is not None and rounded is not None:
            shares[mix] = {judge: _won_back(judge, rounded, recovered, base) for judge in judges}
    return shares


def _won_back(judge: str, rounded: Row, recovered: Row, base: Row | None) -> WonBack:
    before, after = rounded.on(judge), recovered.on(judge)
    base_ppl = base.on(judge).ppl if base is not None else None
    kl_before, kl_after = before.student.kl_mean, after.student.kl_mean
    kl_share = ppl_share = None
    if kl_before is not None and kl_after is not None and kl_before > 0:
        kl_share = 1 - kl_after / kl_before
    if before.ppl is not None and after.ppl is not None and base_ppl is not None and before.ppl > base_ppl:
        ppl_share = (before.ppl - after.ppl) / (before.ppl - base_ppl)
    return WonBack(kl_share, ppl_share)
