"""Hold every family's files against transformers: tiny random models with all that their family can have
(tests/tiny.py).

Run    python bench/families.py [gguf] [onnx] [whole] [students] [vocabulary]
Writes bench/results/families.json: for each family, format and mix the largest difference of a logit from transformers'
own model
       of the same weights, how many of the weights in the file differ from the checkpoint, and how many token ids were
       compared. Rows with a `student` are of what a recipe's student of that kind makes of the family's model: fewer
       layers, narrower ones, both, a new one; or of the model with fewer tokens. Without a format or a group all are
       measured; other rows stay.

The text is longer than the models' sliding windows, and longer than what yarn's scaling starts from. For GGUF the
difference is that of llama.cpp with keys and values in float32; `max_abs_logit_difference_default` is with its default,
a float16 cache. On a grid llama.cpp also rounds the activations to 8 bits, which is all that its logits differ by. For
ONNX the difference is that of accuracy
level 0, which leaves activations in float32, and `_default` is level 4, which files ship with: it rounds them to 8 bits
too.
"""

import itertools
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM
from transformers.utils import logging

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from edgedistill import mixes  # noqa: E402
from edgedistill.config.students import AnyStudent, Student  # noqa: E402
from edgedistill.export.gguf.check import check_token_ids, verify_gguf  # noqa: E402
from edgedistill.export.gguf.write import write_gguf  # noqa: E402
from edgedistill.export.onnx.build import write_onnx  # noqa: E402
from edgedistill.export.onnx.check import verify_onnx  # noqa: E402
from edgedistill.facts import ModelShape, allowed_layers  # noqa: E402
from edgedistill.families import FAMILIES  # noqa: E402
from edgedistill.formats import F32  # noqa: E402
from edgedistill.models.hf_folder import read_shape  # noqa: E402
from edgedistill.models.load import load_model, save_model  # noqa: E402
from edgedistill.models.students.build import build_student  # noqa: E402
from edgedistill.models.students.origin import Origin  # noqa: E402
from edgedistill.models.students.vocabulary import trim_student  # noqa: E402
from edgedistill.models.tokenizer import load_tokenizer  # noqa: E402
from edgedistill.progress import QuietProgress  # noqa: E402
from edgedistill.quant.checkpoint import GridCheckpoint  # noqa: E402
from edgedistill.quant.fit import fit_ggml  # noqa: E402
from tests.tiny import CORPUS, make_tiny  # noqa: E402

OUT = Path(__file__).parent / "results" / "families.json"
TOKENS = [int(token) for token in np.random.default_rng(0).integers(3, 400, 120)]
MIXES = ("f32", "q8_0", "q4_0")  # f32: no mix, but all weights as they are
STUDENT_MIXES = ("f32", "q4_0")
# What rows are of: the families' models as they are, and the kinds of students that are made from them.
VOCABULARY = "vocabulary"  # the kind whose layers stay and whose tokens go
GROUPS: dict[str, list[str | None]] = {
    "whole": [None],
    "students": ["depth", "width", "depth+width", "config"],
    VOCABULARY: [VOCABULARY],
}
VOCABULARY_SIZE = 416  # above every id of TOKENS; the tokenizer has 512
ANY_STUDENT: TypeAdapter[AnyStudent] = TypeAdapter(Student)
# llama.cpp in a process of its own, with nothing of ours imported: logits with a float32 cache, then with its default
# one.
LLAMA = """
import sys, numpy as np, llama_cpp
tokens = [int(token) for token in sys.argv[3].split()]
found = []
for cache in (llama_cpp.GGML_TYPE_F32, llama_cpp.GGML_TYPE_F16):
    options = {"n_ctx": 256, "n_threads": 1, "logits_all": True, "verbose": False, "type_k": cache, "type_v": cache}
    model = llama_cpp.Llama(sys.argv[1], **options)
    model.eval(tokens)
    found.append(np.array(model.scores[: len(tokens)]))
np.save(sys.argv[2], np.stack(found))
"""


@dataclass(frozen=True)
class Case:
    """A family's model in one mix: its folder, shape and checkpoint, and transformers' logits [T, V] of the
    checkpoint's weights.
    """

    folder: Path
    shape: ModelShape
    checkpoint: GridCheckpoint
    expected: np.ndarray


def gguf_row(case: Case, scratch: Path) -> dict[str, Any]:
    """What the case's GGUF file is like in llama.cpp."""
    path = write_gguf(case.checkpoint, case.folder, case.shape, scratch / "model.gguf", {})
    compared = verify_gguf(case.checkpoint, case.folder, case.shape, path)
    logits = scratch / "logits.npy"
    command = [sys.executable, "-c", LLAMA, str(path), str(logits), " ".join(map(str, TOKENS))]
    subprocess.run(command, check=True, capture_output=True)
    exact, default = np.load(logits)
    return {
        **_held(exact, case.expected),
        "max_abs_logit_difference_default": float(np.abs(default - case.expected).max()),
        "tensors": compared.tensors,
        "blocks": compared.blocks,
        "differences": len(compared.differences),
        "token_ids_equal": check_token_ids(case.folder, path),
        "versions": _versions("llama-cpp-python", "gguf"),
    }


def onnx_row(case: Case, scratch: Path) -> dict[str, Any]:
    """What the case's ONNX folder is like in onnxruntime with float activations, and with those of 8 bits that files
    ship with.
    """
    feeds = {"input_ids": np.array([TOKENS], np.int64), "attention_mask": np.ones((1, len(TOKENS)), np.int64)}
    found, compared = [], []
    for level in (0, 4):
        folder = write_onnx(case.checkpoint, case.folder, case.shape, scratch / str(level), {}, level)
        compared.append(verify_onnx(case.checkpoint, case.folder, case.shape, folder))
        session = ort.InferenceSession(str(next((folder / "onnx").glob("*.onnx"))), providers=["CPUExecutionProvider"])
        empty = {
            i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32)
            for i in session.get_inputs()
            if i.name not in feeds
        }
        found.append(session.run(["logits"], {**feeds, **empty})[0][0])
    return {
        **_held(found[0], case.expected),
        "max_abs_logit_difference_default": float(np.abs(found[1] - case.expected).max()),
        "tensors": compared[0].tensors,
        "blocks": compared[0].blocks,
        "differences": sum(len(c.differences) for c in compared),
        "token_ids_equal": None,  # the folder holds the tokenizer's own files
        "versions": _versions("onnx", "onnxruntime"),
    }


# A format is a function from a case and an empty folder to the fields of its row.
FORMATS: dict[str, Callable[[Case, Path], dict[str, Any]]] = {"gguf": gguf_row, "onnx": onnx_row}


def main() -> None:
    """Measure the formats and groups named on the command line, all without a name, and write the JSON."""
    logging.disable_progress_bar()
    unknown = set(sys.argv[1:]) - {*FORMATS, *GROUPS}
    if unknown:
        raise SystemExit(f"{', '.join(sorted(unknown))}: it must be of {', '.join([*FORMATS, *GROUPS])}")
    formats = [name for name in FORMATS if name in sys.argv[1:]] or list(FORMATS)
    groups = [name for name in GROUPS if name in sys.argv[1:]] or list(GROUPS)
    old = json.loads(OUT.read_text(encoding="utf-8"))["rows"] if OUT.is_file() else []
    rows = [row for row in old if row["format"] not in formats or _group(row.get("student")) not in groups]
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            teacher = make_tiny(family, Path(folder) / "model")
            for student in [kind for group in groups for kind in GROUPS[group]]:
                rows += _rows(family, teacher, student, formats)
    order, students = list(FAMILIES), [kind for kinds in GROUPS.values() for kind in kinds]
    rows.sort(
        key=lambda row: (
            order.index(row["family"]),
            students.index(row.get("student")),
            row["format"],
            MIXES.index(row["mix"]),
        )
    )
    # Of the whole record; the rows of a format and group have the one that made them.
    record = {"schema": "edgedistill.families/1", "command": "python bench/families.py", "rows": rows}
    OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _group(student: str | None) -> str:
    return next(group for group, kinds in GROUPS.items() if student in kinds)


def _rows(family: str, teacher: Path, student: str | None, formats: list[str]) -> list[dict[str, Any]]:
    """The rows of a family's model, or of one kind of student that is made from it."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = teacher if student is None else _student(teacher, student, Path(folder))
        cases = _cases(model, MIXES if student is None else STUDENT_MIXES)
        for name, (mix, case) in itertools.product(formats, cases.items()):
            with tempfile.TemporaryDirectory() as scratch:
                found = FORMATS[name](case, Path(scratch))
            of_student = {} if student is None else {"student": student, "sizes": _sizes(case.shape)}
            command = f"python bench/families.py {name} {_group(student)}"
            rows.append({"family": family, **of_student, "format": name, "mix": mix, **found, "command": command})
            print(
                f"{family:12} {student or 'whole':12} {name} {mix:5} {found['max_abs_logit_difference']:.2e} "
                f"{found['differences']} differences",
                flush=True,
            )
    return rows


def _student(teacher: Path, kind: str, folder: Path) -> Path:
    """The student of a kind, made from the family's model."""
    if kind == VOCABULARY:
        tokenizer = load_tokenizer(teacher)
        save_model(load_model(teacher), teacher, folder)
        trim_student(folder, [torch.tensor(tokenizer(text)["input_ids"]) for text in CORPUS[:3]], VOCABULARY_SIZE)
        return folder
    shape = read_shape(teacher)
    family = FAMILIES[shape.family]
    fewer = max(count for count in allowed_layers(shape) if count < shape.layers)
    # Where heads times their size are the width, fewer heads make a smaller width.
    narrower = {"ffn": 64, "kv_heads": 1} if family.square else {"ffn": 64, "kv_heads": 1, "width": 32}
    settings: dict[str, dict[str, Any]] = {
        "depth": {"layers": fewer},
        "width": narrower,
        "depth+width": {"layers": fewer, **narrower},
        "config": {"layers": 2, "width": 32, "heads": 2, "kv_heads": 1, "ffn": 64},
    }
    student = ANY_STUDENT.validate_python({"kind": kind, **settings[kind]})
    student.check(f"{family.name} {kind}", family.name, shape)
    origin = Origin(teacher, f"{family.name} {kind}", texts=[torch.tensor(TOKENS)])
    build_student(student.decided(shape, 32), origin, folder, QuietProgress())
    return folder


def _sizes(shape: ModelShape) -> dict[str, int]:
    return {key: getattr(shape, key) for key in ("layers", "width", "heads", "kv_heads", "ffn", "vocab")}


def _cases(folder: Path, names: Sequence[str]) -> dict[str, Case]:
    shape, state = read_shape(folder), load_model(folder).state_dict()
    cases = {}
    for mix in names:
        formats = {tensor.name: F32 for tensor in shape.tensors()} if mix == "f32" else mixes.assign_formats(shape, mix)
        checkpoint = GridCheckpoint(
            mix,
            {
                name: fit_ggml(state[name], f.name) if f.quantized else state[name].float()
                for name, f in formats.items()
            },
        )
        # transformers' own loading, and the checkpoint's weights put into its model.
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        model.load_state_dict({name: checkpoint.decode(name) for name in checkpoint.tensors}, strict=False)
        with torch.no_grad():
            cases[mix] = Case(folder, shape, checkpoint, model(torch.tensor([TOKENS])).logits[0].numpy())
    return cases


def _held(found: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    return {
        "max_abs_logit_difference": float(np.abs(found - expected).max()),
        "logit_spread": float(expected.std()),
        "same_top": float((found.argmax(1) == expected.argmax(1)).mean()),
        "positions": len(expected),
    }


def _versions(*packages: str) -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", *packages)} | {
        "python": platform.python_version()
    }


if __name__ == "__main__":
    main()
