"""What a student has of its teacher, in words."""

from edgedistill.facts import ModelShape


def kept_words(student: ModelShape, teacher: ModelShape) -> str:
    """'27 of 30 layers, width 576', and of heads and FFN channels where there are fewer: 'ffn 768 of 1536'."""
    words = [f"{student.layers} of {teacher.layers} layers"]
    if student.ffn != teacher.ffn:
        words.append(f"ffn {student.ffn} of {teacher.ffn}")
    if student.heads != teacher.heads:
        words.append(f"{student.heads} of {teacher.heads} heads")
    if student.kv_heads != teacher.kv_heads:
        words.append(f"{student.kv_heads} of {teacher.kv_heads} key heads")
    width = f"width {student.width}"
    return ", ".join([*words, width if student.width == teacher.width else f"{width} of {teacher.width}"])
