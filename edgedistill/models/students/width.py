"""The kind `width`: a narrower model cut out of a wider one, without what matters least on training text."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from edgedistill.config.students.width import Narrower, WidthStudent
from edgedistill.models.hf_folder import shape_of
from edgedistill.models.load import load_model, save_model
from edgedistill.models.students.importance import measure_importance
from edgedistill.models.students.narrow import Kept, choose_kept, narrowed
from edgedistill.models.students.origin import Origin, first_tokens
from edgedistill.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHANNELS = "channels.json"  # what was kept of the teacher, by layer
IMPORTANCE_TOKENS = 8192


def build_width(student: WidthStudent, origin: Origin, work: Path, progress: Progress) -> None:
    """Write the teacher's most important channels and heads to `work`, and which they are to `channels.json`."""
    model = load_model(origin.teacher, device=origin.device)
    save_model(narrow_by_text(model, student, origin, work, progress), origin.teacher, work)


def narrow_by_text(
    model: "PreTrainedModel", student: Narrower, origin: Origin, work: Path, progress: Progress
) -> "PreTrainedModel":
    """The model of the student's sizes, by importance on the origin's text; `channels.json` is written.

    `model` gives up its weights: they are in memory once, and what is copied out of them.
    """
    teacher = shape_of(origin.teacher, model.config.to_dict())
    texts = first_tokens(origin.texts, IMPORTANCE_TOKENS)
    progress.start("importance", sum(text.numel() for text in texts), "tokens")
    with torch.autocast(model.device.type, origin.compute, enabled=origin.compute != torch.float32):
        importance = measure_importance(model, texts, student.importance, progress.advance)
    progress.finish()
    kept = choose_kept(importance, teacher, student.sizes.of(teacher))
    work.mkdir(parents=True, exist_ok=True)
    _write_kept(kept, work / CHANNELS)
    torch.nn.Module.to(model, "cpu")  # where the importance is
    return narrowed(model, kept, importance.squares)


def _write_kept(kept: Kept, path: Path) -> None:
    layers = [
        {"ffn": list(ffn), "heads": list(heads), "kv_heads": list(keys)}
        for ffn, heads, keys in zip(kept.ffn, kept.heads, kept.kv_heads, strict=True)
    ]
    path.write_text(json.dumps({"width": list(kept.width), "layers": layers}), encoding="utf-8")
