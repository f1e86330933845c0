"""Two models of one tokenizer: which rows of their tables stand for the same words. No torch.

A table may have rows behind the last word, which are padding: Qwen2.5 has 151,665 words, and 151,936 or 152,064 rows.
"""

from pathlib import Path

from edgedistill.errors import InputError
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_model import gguf_shape
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.vocabulary import UNUSED, Vocabulary, read_vocabulary


def shared_rows(teacher: Path, student: Path) -> int:
    """The rows that both models' tables have, of which the tokenizer's words are the first.

    Args:
        teacher, student: a Hugging Face folder or .gguf file each.
    Raises:
        InputError: their words differ, or a table has fewer rows than there are words.
    """
    words = _words(read_vocabulary(teacher))
    others = _words(read_vocabulary(student))
    if words != others:
        at = next((i for i, pair in enumerate(zip(words, others, strict=False)) if pair[0] != pair[1]), None)
        differ = f"id {at} is {words[at]!r} and {others[at]!r}" if at is not None else f"{len(words)} and {len(others)}"
        raise InputError(
            f"the words of the teacher {teacher} and the student {student} differ ({differ}); a student learns from a "
            "teacher's probabilities only where ids mean the same: take one with the teacher's tokenizer"
        )
    rows = min(_rows(teacher), _rows(student))
    if rows < len(words):
        raise InputError(f"{teacher} and {student} have {len(words)} words, and a table of {rows} rows; it is damaged")
    return rows


def _words(vocabulary: Vocabulary) -> tuple[str, ...]:
    """All words, without the padding behind the last."""
    last = max((index for index, kind in enumerate(vocabulary.types) if kind != UNUSED), default=-1)
    return vocabulary.tokens[: last + 1]


def _rows(model: Path) -> int:
    return read_shape(model).vocab if model.is_dir() else gguf_shape(read_header(model)).vocab
