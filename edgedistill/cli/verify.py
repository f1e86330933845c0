"""`edgedistill verify`: prove that files hold the same weights, bit for bit, or show where they don't."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedistill.cli.artifacts import require_paths
from edgedistill.cli.options import NonEmptyPath
from edgedistill.cli.page import page
from edgedistill.show import one_line

if TYPE_CHECKING:
    from edgedistill.export.pairs import PairComparison
    from edgedistill.export.verify import FileProof
    from edgedistill.progress import Progress

SHOWN = 12  # differing tensors in the table; --json has all


@click.command()
@click.argument("first", metavar="RUN|CHECKPOINT|FILE", type=NonEmptyPath())
@click.argument("others", metavar="[FILE]...", nargs=-1, type=NonEmptyPath())
@click.option("--mix", help="The mix of a RUN's checkpoint, where the FILE's name doesn't tell it.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object.")
def verify(first: Path, others: tuple[Path, ...], mix: str | None, as_json: bool) -> None:
    """Compare weights tensor by tensor, bit for bit, and print their hash.

    A RUN: all files of its bundle, or the FILEs given, with the checkpoint that training saw; their shape and tokenizer
    too. Anything else that holds a model (a checkpoint, a GGUF file, an ONNX folder, a Hugging Face folder): with each
    FILE of any of these kinds; alone, its hash. Exits 1 at a difference, and says which tensors differ, where first,
    and how much.

    \b
    Example: edgedistill verify runs/demo
             edgedistill verify mine-q4_0.gguf somebody-elses-q4_0.gguf
    """
    require_paths((first, *others))
    from edgedistill.quant.checkpoint import FILE
    from edgedistill.store.run import RUN

    if (first / RUN).is_file() or ((first / FILE).is_file() and others and all(_is_export(path) for path in others)):
        _verify_exports(first, others, mix, as_json)
    elif others:
        _compare_pairs(first, others, as_json)
    else:
        _show_hash(first, as_json)


def _is_export(path: Path) -> bool:
    return path.suffix == ".gguf" or (path / "onnx").is_dir()


def _verify_exports(folder: Path, files: tuple[Path, ...], mix: str | None, as_json: bool) -> None:
    from edgedistill.errors import VerifyError
    from edgedistill.export.verify import checkpoints_of, verify_files, verify_run
    from edgedistill.progress import RichProgress
    from edgedistill.quant.checkpoint import FILE, load_grid
    from edgedistill.store.run import RunFolder

    proofs: list[FileProof]
    progress = RichProgress()
    try:
        if (folder / FILE).is_file():
            name = mix or load_grid(folder).mix
            proofs = verify_files(files, {name: folder}, name, progress)
        elif files:
            proofs = verify_files(files, checkpoints_of(RunFolder.find(folder)), mix, progress)
        else:
            proofs = verify_run(RunFolder.find(folder), progress)
    finally:
        progress.finish()
    if as_json:
        rows = [
            {
                "file": str(p.path),
                "kind": p.kind,
                "mix": p.mix,
                "tensors": p.comparison.tensors,
                "blocks": p.comparison.blocks,
                "equal": p.comparison.equal,
                "differences": [str(d) for d in p.comparison.differences],
                "weights_sha256": p.comparison.sha256,
            }
            for p in proofs
        ]
        click.echo(json.dumps({"schema": "edgedistill.verify/1", "files": rows}, indent=2))
    else:
        for p in proofs:
            same = f"{p.comparison.tensors} tensors, {p.comparison.blocks:,} blocks, bit for bit the checkpoint's"
            verdict = (
                same
                if p.comparison.equal
                else f"{len(p.comparison.differences)} of {p.comparison.tensors} tensors differ"
            )
            page(f"{one_line(p.path)}\n  {p.mix}: {verdict}\n  weights {p.comparison.sha256}")
    for p in proofs:
        if not p.comparison.equal:
            raise VerifyError(
                f"{p.path} doesn't hold the checkpoint: the first difference is in {p.comparison.differences[0]}"
            )


def _compare_pairs(first: Path, others: tuple[Path, ...], as_json: bool) -> None:
    from edgedistill.errors import VerifyError
    from edgedistill.export.pairs import compare_weights
    from edgedistill.export.weights import open_weights
    from edgedistill.progress import RichProgress

    progress = RichProgress()
    try:
        comparisons = {path: compare_weights(open_weights(first), open_weights(path), progress) for path in others}
    finally:
        progress.finish()
    if as_json:
        rows = [
            {"first": str(first), "second": str(path), **comparison.to_dict()}
            for path, comparison in comparisons.items()
        ]
        click.echo(json.dumps({"schema": "edgedistill.verify-pair/1", "pairs": rows}, indent=2))
    else:
        for path, comparison in comparisons.items():
            page("\n".join(_lines(first, path, comparison)))
    for path, comparison in comparisons.items():
        if not comparison.equal:
            raise VerifyError(f"{first} and {path} don't hold the same weights")


def _lines(first: Path, second: Path, comparison: "PairComparison") -> list[str]:
    lines = [
        one_line(first),
        f"  weights {comparison.sha256[0]}",
        one_line(second),
        f"  weights {comparison.sha256[1]}",
    ]
    if comparison.equal:
        return [*lines, f"{comparison.tensors} tensors, {comparison.blocks:,} blocks, bit for bit the same"]
    lines.append(f"{len(comparison.differences)} of {comparison.tensors} common tensors differ")
    if comparison.differences:
        lines.append(f"{'tensor':<48} {'formats':<14} {'differing':>18} {'largest':>10} {'relative':>9}")
    for d in comparison.differences[:SHOWN]:
        formats, share = "/".join(d.formats), f"{d.differing:,} of {d.weights:,}"
        lines.append(f"{one_line(d.tensor):<48} {formats:<14} {share:>18} {d.largest:>10.3g} {d.relative_error:>9.2%}")
        lines.append(f"  first at row {d.first.row}, block {d.first.block}: {d.first.expected!r} and {d.first.found!r}")
    if len(comparison.differences) > SHOWN:
        lines.append(f"and {len(comparison.differences) - SHOWN} more; --json lists all")
    for path, only in ((first, comparison.only_first), (second, comparison.only_second)):
        if only:
            names = ", ".join(one_line(name) for name in only[:SHOWN])
            lines.append(f"only in {one_line(path)}: {names}{' and more' if len(only) > SHOWN else ''}")
    return lines


def _show_hash(path: Path, as_json: bool) -> None:
    from edgedistill.export.compare import weights_hash
    from edgedistill.export.weights import open_weights
    from edgedistill.progress import RichProgress

    weights = open_weights(path)
    formats: dict[str, int] = {}
    for stored in weights.tensors.values():
        formats[stored.format] = formats.get(stored.format, 0) + 1
    facts = {"file": str(path), "kind": weights.kind, "tensors": len(weights.tensors), "formats": formats}
    progress = RichProgress()
    progress.start(f"hash {path.name}", len(weights.tensors), "tensors")
    try:
        facts["weights_sha256"] = weights_hash(_counted(weights.in_order(), progress))
    finally:
        progress.finish()
    if as_json:
        click.echo(json.dumps({"schema": "edgedistill.weights/1", **facts}, indent=2))
    else:
        counts = ", ".join(f"{count} {name}" for name, count in formats.items())
        page(
            f"{one_line(path)}\n  {weights.kind}: {len(weights.tensors)} tensors ({counts})\n"
            f"  weights {facts['weights_sha256']}"
        )


def _counted(tensors: Iterable[Any], progress: "Progress") -> Iterator[Any]:
    """The same tensors, each told to `progress`."""
    for tensor in tensors:
        yield tensor
        progress.advance(1)
