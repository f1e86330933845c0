"""`edgedistill bench`: measure any GGUF file or ONNX folder on this machine."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedistill.cli.options import NonEmptyPath
from edgedistill.cli.page import page

if TYPE_CHECKING:
    from edgedistill.results.bench import FileFigures
    from edgedistill.results.draft import DraftFigures
    from edgedistill.results.row import Quality


@click.command()
@click.argument("artifacts", metavar="FILE|FOLDER...", nargs=-1, required=True, type=NonEmptyPath())
@click.option("--text", metavar="FILE", type=NonEmptyPath(), help="A UTF-8 text: adds perplexity.")
@click.option(
    "--reference",
    metavar="MODEL",
    help="A model folder or .gguf file: adds KL and agreement with its float weights on the text.",
)
@click.option(
    "--draft",
    metavar="FILE",
    type=NonEmptyPath(),
    help="A small .gguf file with FILE's tokens, which drafts for it: acceptance, and tokens/s with and without it.",
)
@click.option(
    "--prompts",
    metavar="FILE",
    type=NonEmptyPath(),
    help="What --draft is tried on; questions of our own if not given.",
)
@click.option(
    "--tokens", default=4096, show_default=True, type=click.IntRange(min=1), help="Tokens of the text to judge."
)
@click.option(
    "--prefill",
    type=click.IntRange(min=1),
    help="Tokens of the prompt that is timed. Default: 512, or what the model was trained for where that is less.",
)
@click.option(
    "--decode",
    type=click.IntRange(min=1),
    help="Tokens written one by one that are timed. Default: 128, or what the model was trained for.",
)
@click.option(
    "--repetitions", default=5, show_default=True, type=click.IntRange(min=1), help="Trials of each, after a warm-up."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads; by default all cores that this process may use.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON object; of several files as a list."
)
def bench(
    artifacts: tuple[Path, ...],
    text: Path | None,
    reference: str | None,
    draft: Path | None,
    prompts: Path | None,
    tokens: int,
    prefill: int | None,
    decode: int | None,
    repetitions: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure a packed file in its real runtime: tokens/s, memory, load time, and quality on a text.

    Several files are measured against one reference, their speeds taken in turn, and shown in one table.

    \b
    Example: edgedistill bench model.gguf --prefill 256 --decode 64
             edgedistill bench mine-q4_0.gguf theirs-q4_k_m.gguf --text notes.txt --reference model-f16.gguf
             edgedistill bench big.gguf --draft small.gguf --decode 64
    """
    from edgedistill.cli.side_by_side import FilesRequest, measure, table
    from edgedistill.errors import InputError
    from edgedistill.measure.bench import BenchSettings, read_text, runtime_of
    from edgedistill.measure.bench import bench as run_bench
    from edgedistill.models.source import resolve
    from edgedistill.progress import RichProgress

    if prompts is not None and draft is None:
        raise InputError("--prompts is what --draft is tried on; give --draft too, or leave it out")
    if draft is not None:
        if len(artifacts) > 1 or text is not None or reference is not None:
            raise InputError("--draft goes with one FILE, and without --text and --reference; bench those apart")
        _bench_draft((artifacts[0], draft), prompts, decode, threads, as_json)
        return
    settings = BenchSettings(prefill, decode, repetitions, threads, tokens)
    for artifact in artifacts:
        runtime_of(artifact)  # says at once what is wrong with the name
    if text is not None:
        read_text(text)  # before a reference is fetched
    if len(artifacts) > 1:
        results = measure(FilesRequest(artifacts, text, reference), settings)
        if as_json:
            click.echo(json.dumps([result.to_json() for result in results], indent=2))
        else:
            page(table(results))
        return
    resolved = resolve(reference) if reference else None
    progress = RichProgress()
    try:
        with tempfile.TemporaryDirectory(prefix="edgedistill-") as scratch:
            result = run_bench(artifacts[0], text, resolved, settings, Path(scratch), progress)
    finally:
        progress.finish()
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        page(_lines(result))


def _bench_draft(
    files: tuple[Path, Path], prompts: Path | None, decode: int | None, threads: int | None, as_json: bool
) -> None:
    """A target with its draft model and without it."""
    from edgedistill.measure.bench import DECODE
    from edgedistill.measure.draft import measure_draft, own_prompts, user_prompts
    from edgedistill.progress import RichProgress
    from edgedistill.runtimes.speculative import Drafting

    asked = own_prompts() if prompts is None else user_prompts(prompts)
    progress = RichProgress()
    try:
        figures = measure_draft(files, asked, decode or DECODE, Drafting(), progress, threads)
    finally:
        progress.finish()
    if as_json:
        click.echo(json.dumps(figures.to_json(), indent=2))
    else:
        page(_draft_lines(figures))


def _draft_lines(figures: "DraftFigures") -> str:
    from edgedistill.show import one_line, show

    threads = f"{figures.threads} thread{'s' if figures.threads != 1 else ''}"
    lines = [
        f"target {one_line(figures.target)} ({show(figures.target_bytes, 'bytes')}), "
        f"draft model {one_line(figures.draft)} ({show(figures.draft_bytes, 'bytes')}), {threads}"
    ]
    kept = "nothing was drafted" if figures.acceptance is None else f"{100 * figures.acceptance:.0f} % accepted"
    lines.append(
        f"  drafted  {figures.drafted} tokens, {kept}; {figures.tokens_per_pass:.2f} tokens a pass of the target"
    )
    rates = f"{figures.with_tokens_per_s:.1f} tokens/s with it, {figures.without_tokens_per_s:.1f} without"
    interval = f"95 % interval {figures.low:.2f} to {figures.high:.2f}"
    lines.append(f"  decode   {rates}: {figures.speedup:.2f} times as fast ({interval}); {_worth(figures)}")
    lines.append(f"  answers  {figures.same_answers} of {figures.prompts} are the same both ways{_unlike(figures)}")
    return "\n".join(lines)


def _worth(figures: "DraftFigures") -> str:
    """Whether drafting pays on this machine, by the interval."""
    if figures.low > 1:
        return "drafting pays here"
    return "drafting doesn't pay here" if figures.high < 1 else "whether drafting pays here isn't certain"


def _unlike(figures: "DraftFigures") -> str:
    """Why answers that should be the same needn't be, where they aren't."""
    if figures.same_answers == figures.prompts:
        return ""
    return "; a pass over several tokens rounds otherwise than one over each, which decides between tokens nearly alike"


def _lines(result: "FileFigures") -> str:
    """One file's figures in a few lines."""
    from edgedistill.results.row import NO_SPEED
    from edgedistill.show import one_line, show, show_spread

    speed = result.speed or NO_SPEED
    runtime = f"{result.runtime} {result.runtime_version}, {speed.threads} thread{'s' if speed.threads != 1 else ''}"
    lines = [f"{one_line(result.file)}  {show(result.file_bytes, 'bytes')}, {runtime}"]
    for name, timing in (("prefill", speed.prefill), ("decode", speed.decode)):
        lines.append(f"  {name:8} {show_spread(timing.mean, timing.std)} tokens/s")
    lines.append(f"  load     {show(speed.load_s, 's')}, peak memory {show(speed.peak_rss_bytes, 'bytes')}")
    if speed.busy:
        lines.append("  another program had the cores during the trials: the speeds say little")
    for judge, quality in (result.quality or {}).items():
        lines.append(f"  {judge}: {_quality_words(quality)} over {quality.tokens} tokens")
    return "\n".join(lines)


def _quality_words(quality: "Quality") -> str:
    from edgedistill.results.bench import to_reference

    words = f"perplexity {quality.ppl:.2f}"
    near = to_reference(quality)
    if near.kl_mean is None or near.kl_p99 is None or near.top1 is None:
        return words
    return (
        f"{words}, KL {near.kl_mean:.4f} (99 %: {near.kl_p99:.2f}) nats per token, "
        f"same top token {100 * near.top1:.1f} %"
    )
