"""The bundle folder: built beside the old one, then put in its place; an interrupted build leaves the old bundle whole.

Model files are hard links to the stage's files where the disk allows, copies elsewhere, never symbolic links: the
folder can be moved, packed and shipped as it is.

    NAME-MIX.gguf  Modelfile  tokenizer.json  tokenizer_config.json  chat_template.jinja  generation_config.json
    onnx-MIX/      as transformers.js, onnxruntime-genai and optimum read it (export/onnx/build.py)
    examples/      programs that run as they are        README.md  LICENSE  SHA256SUMS
    bundle.json    which of the model files to use, and how to ask it
"""

import errno
import os
import shutil
from collections.abc import Container, Mapping
from pathlib import Path

from edgedistill.bundle.card import license_note, model_card
from edgedistill.bundle.examples import write_examples
from edgedistill.bundle.modelfile import modelfile
from edgedistill.bundle.names import INNER, place_of, safe_name, split_key
from edgedistill.bundle.public import public_report
from edgedistill.bundle.recommended import FILE as RECOMMENDED
from edgedistill.bundle.recommended import Recommended, recommended, recommended_text
from edgedistill.bundle.settings import ModelSettings, read_settings
from edgedistill.bundle.tokenizer import place_tokenizer
from edgedistill.errors import InputError, RunError
from edgedistill.results.report import Report
from edgedistill.results.row import LLAMA_CPP
from edgedistill.store.files import file_sha256, files_of
from edgedistill.store.whole import atomic_write, whole_folder

SUMS = "SHA256SUMS"
CARD = "MODEL_CARD.md"
NO_LINKS = (
    errno.EXDEV,
    errno.EPERM,
    errno.ENOTSUP,
    errno.EMLINK,
    errno.ENOSYS,
)  # other disk, or one without hard links


def write_bundle(
    artifacts: Mapping[str, Path],
    report: Report,
    out: Path,
    name: str,
    license_text: str | None = None,
    model: Path | None = None,
) -> Path:
    """Put the artifacts with their papers into the folder `out`, in place of an older bundle there.

    Args:
        artifacts: by 'gguf-MIX' a .gguf file, which becomes NAME-MIX.gguf; by 'onnx-MIX' a folder, which becomes
            onnx-MIX/.
        report: what `build_report` gave: README.md tells its figures; the examples name the file of its
            verdict's mix, else the first.
        out: the bundle's folder.
        name: the model's name; made safe for paths.
        license_text: the teacher's licence in full, appended to LICENSE.
        model: the Hugging Face folder that the artifacts were made from; its tokenizer and generation settings go
            beside a GGUF. Without one they come from an ONNX folder, else the tokenizer from the GGUF itself.
    Raises:
        InputError: there is no artifact, one doesn't exist or is damaged, or `out` holds something that is not a
            bundle.
        RunError: a file isn't the one that was measured, is a link, or the disk can't take it.
    """
    _check(artifacts, out)
    with whole_folder(out) as new:
        _fill(new, artifacts, public_report(report), name, license_text, model)
    return out


def bundle_damage(out: Path) -> str | None:
    """What is wrong with the bundle in `out` by its own SHA256SUMS: the first file that is missing or changed; None if
    all is well.
    """
    try:
        lines = (out / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{SUMS} is missing"
    except UnicodeDecodeError:
        return f"{SUMS} isn't text"
    for line in lines:
        sha256, _, inner = line.partition("  ")
        if not (out / inner).is_file():
            return f"{inner} is missing"
        if file_sha256(out / inner) != sha256:
            return f"{inner} doesn't match its SHA-256"
    return None


def sums_sha256(out: Path) -> str | None:
    """SHA-256 of a bundle's SHA256SUMS, which stands for all of it; None where there is none."""
    return file_sha256(out / SUMS) if (out / SUMS).is_file() else None


def _check(artifacts: Mapping[str, Path], out: Path) -> None:
    if not artifacts:
        raise InputError(f"{out}: a bundle needs at least one artifact, gguf-MIX or onnx-MIX, and none was given.")
    for key, path in artifacts.items():
        kind, _ = split_key(key)
        if not (path.is_file() if kind == "gguf" else path.is_dir()):
            raise InputError(
                f"{path}: the bundle's {key} must be a {'file' if kind == 'gguf' else 'folder'}, and there is none."
            )
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out}: it is no folder; name a new folder or an older bundle.")
    ours = (out / SUMS, out / RECOMMENDED)  # either may have been removed
    if out.exists() and any(out.iterdir()) and not any(file.is_file() for file in ours):
        raise InputError(
            f"{out}: it holds files but no {SUMS}, so it is no bundle and stays untouched; name another folder."
        )


def _fill(
    folder: Path,
    artifacts: Mapping[str, Path],
    report: Report,
    name: str,
    license_text: str | None,
    model: Path | None,
) -> None:
    placed: dict[str, Path] = {}
    for key, path in artifacts.items():
        kind, mix = split_key(key)
        place = folder / place_of(key, name)
        if kind == "gguf":
            _place(path, place)
            _require_measured(place, mix, report)
        else:
            for file in files_of(path):
                inner = file.relative_to(path).as_posix()
                if not INNER.fullmatch(inner):
                    raise RunError(f"{file}: a bundle's file names hold only A-Z a-z 0-9 . _ -; rename it.")
                _place(file, place / inner)
        placed[key] = place
    hashes = hashes_of(folder)
    teach = report.teach
    settings = read_settings(placed, model, teach.system if teach else None)
    _furnish(folder, placed, recommended(placed, report.verdict.mix), safe_name(name), settings, model)
    card = model_card(report, safe_name(name), folder, placed, hashes, settings.chat)
    atomic_write(folder / "README.md", card)
    atomic_write(
        folder / CARD, (folder / "README.md").read_bytes()
    )  # a hub shows README.md; who has the folder looks for a card
    hashes[CARD] = file_sha256(folder / CARD)
    atomic_write(folder / "LICENSE", license_note(report, license_text))
    hashes |= hashes_of(folder, without=hashes)
    atomic_write(folder / SUMS, "".join(f"{sha256}  {inner}\n" for inner, sha256 in sorted(hashes.items())))


def _furnish(
    folder: Path,
    placed: Mapping[str, Path],
    chosen: Recommended,
    name: str,
    settings: ModelSettings,
    model: Path | None,
) -> None:
    """What makes model files a thing to embed: the tokenizer beside a GGUF, Ollama's Modelfile, the examples."""
    gguf, onnx = (folder / file if file else None for file in (chosen.gguf, chosen.onnx))
    atomic_write(folder / RECOMMENDED, recommended_text(chosen, settings.chat))
    if gguf:
        place_tokenizer(folder, model or onnx or gguf)
        others = [path.name for key, path in placed.items() if split_key(key)[0] == "gguf" and path != gguf]
        atomic_write(folder / "Modelfile", modelfile(gguf.name, others, name, settings))
    write_examples(folder, gguf, onnx, settings)


def hashes_of(folder: Path, without: Container[str] = ()) -> dict[str, str]:
    """SHA-256 of each file below a folder, by its path in it; of those not in `without`."""
    files = {file.relative_to(folder).as_posix(): file for file in files_of(folder)}
    return {inner: file_sha256(file) for inner, file in files.items() if inner not in without}


def _place(source: Path, place: Path) -> None:
    """A hard link at `place`, or a copy where the disk can't link."""
    if source.is_symlink():
        raise RunError(f"{source}: it is a link; a bundle holds files only. Copy what it points to.")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, place)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, place)


def _require_measured(file: Path, mix: str, report: Report) -> None:
    """The GGUF that ships is the one whose figures the report shows, where the report has a row for it."""
    kinds = {row.kind for row in report.rows if row.mix == mix}
    kind = "recovered" if "recovered" in kinds else "rounded"
    measured = {row.sha256 for row in report.rows if (row.mix, row.kind, row.runtime) == (mix, kind, LLAMA_CPP)}
    if measured and file_sha256(file) not in measured:
        raise RunError(
            f"{file.name}: its content is not what was measured (the report has another SHA-256). Measure it again."
        )
