"""The kind `depth+width`: fewer layers first, then of what is left the channels and heads that matter most."""

from dataclasses import replace
from pathlib import Path

from edgedistill.config.students.both import DepthWidthStudent
from edgedistill.models.load import load_model, save_model
from edgedistill.models.students.depth import INFLUENCE_TOKENS, shallower_by_text
from edgedistill.models.students.origin import Origin, first_tokens
from edgedistill.models.students.width import IMPORTANCE_TOKENS, narrow_by_text
from edgedistill.progress import Progress


def build_depth_width(student: DepthWidthStudent, origin: Origin, work: Path, progress: Progress) -> None:
    """Write the student to `work`, with `layers.json` and `channels.json`.

    The teacher is in memory once, with what is copied out of it.
    """
    # Read once: what gives them may not give them again.
    texts = [text.squeeze(0) for text in first_tokens(origin.texts, max(INFLUENCE_TOKENS, IMPORTANCE_TOKENS))]
    origin = replace(origin, texts=texts)
    model = load_model(origin.teacher, device=origin.device)
    keep = student.layers_of(len(model.model.layers))
    model = shallower_by_text(model, keep, student.choose, origin, (work, progress))
    save_model(narrow_by_text(model, student, origin, work, progress), origin.teacher, work)
