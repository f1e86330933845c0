"""What a loss knows of its teacher at each of N tokens: everything, its k likeliest words, or one text that it wrote.

A teacher with an output matrix comes as its last hidden states: 2·D bytes a token in bfloat16 give all V probabilities.
Its matrix and its width are its own, so the teacher may be another model than the student's; only the vocabulary must
be the same.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ExactTeacher:
    """All probabilities, by hidden states and output matrix.

    Attributes:
        hidden: [N, D] after the final norm; a family that scales its logits (granite) has them scaled here.
        weight: [V, D], the same type.
    Raises:
        ValueError: the types or widths differ.
    """

    hidden: Tensor
    weight: Tensor

    def __post_init__(self) -> None:
        kinds = [(tuple(tensor.shape), tensor.dtype) for tensor in (self.hidden, self.weight)]
        if self.hidden.dtype != self.weight.dtype or self.hidden.shape[-1] != self.weight.shape[-1]:
            raise ValueError(
                f"a teacher's hidden states and output matrix need one type and one width, got {kinds[0]} and "
                f"{kinds[1]}"
            )

    def chunk(self, start: int, stop: int) -> "LiveLogits":
        """Tokens start .. stop, their product with the matrix done."""
        return LiveLogits(self.hidden[start:stop] @ self.weight.T)

    def logits(self, start: int, stop: int) -> Tensor:
        """[stop − start, V] float32."""
        return (self.hidden[start:stop] @ self.weight.T).float()


@dataclass(frozen=True)
class LiveLogits:
    """All probabilities, by logits [N, V] of any float type, all finite. It is 4·V bytes a token: hidden states take
    far less.
    """

    all_logits: Tensor

    def chunk(self, start: int, stop: int) -> "LiveLogits":
        """Tokens start .. stop."""
        return LiveLogits(self.all_logits[start:stop])

    def logits(self, start: int, stop: int) -> Tensor:
        """[stop − start, V] float32; may be the teacher's own memory."""
        return self.all_logits[start:stop].float()


@dataclass(frozen=True)
class TopKTeacher:
    """The k likeliest words.

    Attributes:
        ids: [N, K] integer token ids, distinct within a row.
        log_probs: [N, K] natural logarithms of their probabilities over the whole vocabulary at temperature 1, any
            float type.
    Raises:
        ValueError: the shapes differ.
    """

    ids: Tensor
    log_probs: Tensor

    def __post_init__(self) -> None:
        if self.ids.shape != self.log_probs.shape:
            raise ValueError(
                f"ids and log_probs must have one shape, got {tuple(self.ids.shape)} and {tuple(self.log_probs.shape)}"
            )

    def chunk(self, start: int, stop: int) -> "TopKTeacher":
        """Tokens start .. stop."""
        return TopKTeacher(self.ids[start:stop], self.log_probs[start:stop])


@dataclass(frozen=True)
class WrittenText:
    """The words that were written, by the teacher or by people: [N] token ids."""

    labels: Tensor


Teacher = ExactTeacher | LiveLogits | TopKTeacher | WrittenText
