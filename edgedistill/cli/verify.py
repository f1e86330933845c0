"""`edgedistill verify`: prove that packed files hold the weights that training saw."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("folder", metavar="RUN|CHECKPOINT", type=click.Path(path_type=Path))
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--mix", help="The checkpoint's mix, where the file's name doesn't tell it.")
@click.option("--json", "as_json", is_flag=True, help="Print the proofs as one JSON object.")
def verify(folder: Path, files: tuple[Path, ...], mix: str | None, as_json: bool) -> None:
    """Compare packed files with the checkpoint that training saw, tensor by tensor, bit for bit.

    RUN is a run folder: all files of its bundle are compared, or the FILEs given. CHECKPOINT is a folder with
    grid.safetensors. Exits 1 at a difference, and names the first tensor and block that differ.

    \b
    Example: edgedistill verify runs/demo
    """
    from edgedistill.errors import VerifyError
    from edgedistill.export.verify import checkpoints_of, verify_file, verify_run
    from edgedistill.quant.checkpoint import FILE, load_grid
    from edgedistill.store.run import RunFolder

    if (folder / FILE).is_file():
        name = mix or load_grid(folder).mix
        proofs = [verify_file(path, {name: folder}, name) for path in files]
        if not files:
            raise click.UsageError(f"{folder} is a checkpoint: name the files to compare with it")
    else:
        run = RunFolder.find(folder)
        proofs = [verify_file(path, checkpoints_of(run), mix) for path in files] if files else verify_run(run)
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
            verdict = same if p.comparison.equal else f"{len(p.comparison.differences)} of {p.comparison.tensors} tensors differ"
            click.echo(f"{p.path}\n  {p.mix}: {verdict}\n  weights {p.comparison.sha256}")
    for p in proofs:
        if not p.comparison.equal:
            raise VerifyError(f"{p.path} doesn't hold the checkpoint: the first difference is in {p.comparison.differences[0]}")
