"""What a student has of its teacher, in words."""

from edgedistill.facts import ModelShape

SIZES = {
    "layers": "{} of {} layers",
    "ffn": "ffn {} of {}",
    "heads": "{} of {} heads",
    "kv_heads": "{} of {} key heads",
}


def kept_words(student: ModelShape, teacher: ModelShape) -> str:
    """'27 of 30 layers, width 576', and of heads and FFN channels where there are fewer: 'ffn 768 of 1536'."""
    words = [f"{student.layers} of {teacher.layers} layers", *_smaller(student, teacher, ("ffn", "heads", "kv_heads"))]
    width = f"width {student.width}"
    return ", ".join([*words, width if student.width == teacher.width else f"{width} of {teacher.width}"])


def cut_words(student: ModelShape, teacher: ModelShape) -> str | None:
    """What is less than the teacher's alone: '27 of 30 layers, ffn 768 of 1536'; None where nothing is."""
    words = _smaller(student, teacher, tuple(SIZES))
    if student.width != teacher.width:
        words.append(f"width {student.width} of {teacher.width}")
    return ", ".join(words) or None


def _smaller(student: ModelShape, teacher: ModelShape, names: tuple[str, ...]) -> list[str]:
    pairs = [(SIZES[name], getattr(student, name), getattr(teacher, name)) for name in names]
    return [words.format(own, theirs) for words, own, theirs in pairs if own != theirs]
