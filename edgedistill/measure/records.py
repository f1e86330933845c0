"""The records behind a row's figures: each number with the file, machine, runtime and command that gave it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from edgedistill.results.measurement import LayerError
from edgedistill.results.record import Record
from edgedistill.results.row import Artifact, Quality, Row, Speed
from edgedistill.results.share import TaskShare

UNITS = {"ppl": "perplexity", "kl": "nats per token", "top1": "share"}
DECODER = "gguf"  # what reads a file's weights for their errors


@dataclass(frozen=True)
class RecordSource:
    """The machine (machine.machine_facts()) that gave a run's numbers, and the command line that repeats them."""

    machine: dict[str, Any]
    command: str

    def record(self, artifact: Artifact, what: str, value: float, unit: str, text: str | None = None) -> Record:
        """A number of a file in its runtime, from one trial or a mean over `text`."""
        return Record(
            what=what,
            value=value,
            unit=unit,
            artifact=artifact.label,
            file_sha256=artifact.sha256,
            runtime=artifact.runtime,
            machine=self.machine,
            command=self.command,
            text=text,
        )


def row_records(artifact: Artifact, row: Row, source: RecordSource) -> list[Record]:
    """The records of all of a row's figures."""
    records: list[Record] = []
    for judge, quality in row.quality.items():
        if quality is not None:
            records += _quality_records(artifact, judge, quality, source)
    records += _speed_records(artifact, row.speed, source)
    records += _share_records(artifact, "task", row.tasks, source)
    records += _share_records(artifact, "refusals", row.refusals, source)
    if row.task is not None:
        figures = {row.task.metric: row.task.share, **row.task.figures}
        records += [source.record(artifact, f"own task, {name}", value, "share") for name, value in figures.items()]
    if row.worst:
        mean = sum(token.kl for token in row.worst) / len(row.worst)
        records.append(source.record(artifact, "worst tokens, mean kl", mean, "nats per token"))
    return records


def layer_record(artifact: Artifact, errors: Sequence[LayerError], source: RecordSource) -> Record | None:
    """The mean of a file's errors by layer: a record for each matrix would be most of the report. None without any."""
    of_kind = [error.error(artifact.kind) for error in errors]
    measured = [error for error in of_kind if error is not None]
    if not measured:
        return None
    record = source.record(artifact, "layer errors, mean", fmean(measured), "share")
    return replace(record, runtime=DECODER)


def _quality_records(artifact: Artifact, judge: str, quality: Quality, source: RecordSource) -> list[Record]:
    figures = {name: value for name, value in quality.to_json().items() if name != "tokens"}
    return [
        source.record(artifact, name, value, UNITS[name.split("_")[0]], text=judge) for name, value in figures.items()
    ]


def _speed_records(artifact: Artifact, speed: Speed, source: RecordSource) -> list[Record]:
    records = []
    for name, timing in (("prefill_tokens_per_s", speed.prefill), ("decode_tokens_per_s", speed.decode)):
        assert timing.mean is not None
        record = source.record(artifact, name, timing.mean, "tokens/s")
        records.append(replace(record, trials=len(timing.trials), spread=timing.std))
    assert speed.load_s is not None
    assert speed.peak_rss_bytes is not None
    records.append(source.record(artifact, "load_s", speed.load_s, "s"))
    records.append(source.record(artifact, "peak_rss_bytes", speed.peak_rss_bytes, "bytes"))
    return records


def _share_records(artifact: Artifact, what: str, shares: dict[str, TaskShare], source: RecordSource) -> list[Record]:
    return [
        source.record(artifact, f"{what} {name}", share.share, "share", text=name) for name, share in shares.items()
    ]
