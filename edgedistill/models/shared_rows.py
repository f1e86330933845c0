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
    ours, others = read_vocabulary(teacher), read_vocabulary(student)
    differ = other_words(ours, others)
    if differ is not None:
        raise InputError(
            f"the words of the teacher {teacher} and the student {student} differ ({differ}); a student learns from a "
            "teacher's probabilities only where ids mean the same: take one with the teacher's tokenizer"
        )
    words = len(_words(ours))
    rows = min(_rows(teacher), _rows(student))
    if rows < words:
        raise InputError(f"{teacher} and {student} have {words} words, and a table of {rows} rows; it is damaged")
    return rows


def other_words(teacher: Vocabulary, student: Vocabulary) -> str | None:
    """How two tokenizers' words differ, in a few words; None where every id means the same. Padding doesn't count."""
    words, others = _words(teacher), _words(student)
    if words == others:
        return None
    at = next((i for i, pair in enumerate(zip(words, others, strict=False)) if pair[0] != pair[1]), None)
    return f"id {at} is {words[at]!r} and {others[at]!r}" if at is not None else f"{len(words)} and {len(others)} words"


def same_chats(teacher: Vocabulary, student: Vocabulary) -> bool:
    """Whether two tokenizers of the same words give every conversation and text the same ids."""

    def of(vocabulary: Vocabulary) -> tuple[object, ...]:
        ends = (vocabulary.bos, vocabulary.eos, vocabulary.add_bos)
        return (vocabulary.chat_template, *ends, vocabulary.model, vocabulary.pre, vocabulary.merges)

    return of(teacher) == of(student)


def _words(vocabulary: Vocabulary) -> tuple[str, ...]:
    """All words, without the padding behind the last."""
    last = max((index for index, kind in enumerate(vocabulary.types) if kind != UNUSED), default=-1)
    return vocabulary.tokens[: last + 1]


def _rows(model: Path) -> int:
    return read_shape(model).vocab if model.is_dir() else gguf_shape(read_header(model)).vocab
