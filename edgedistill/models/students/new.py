"""The kind `config`: a new small model that begins with what the teacher knows of its words, and nothing else.

The tables are projected on their own directions of most variance about 0 (the first right singular vectors), so that of
all tables so narrow the products of words with each other change least. They are scaled so that a weight, as the model
reads it, has the teacher's root mean square. All other weights begin as transformers begins them, with a fixed seed.
"""

from pathlib import Path

import torch
from torch import Tensor

from edgedistill.config.students.new import ConfigStudent
from edgedistill.facts import EMBEDDING, HEAD, ModelShape
from edgedistill.families import FAMILIES
from edgedistill.models.load import build_model, load_tensors, model_config, save_model
from edgedistill.models.students.origin import Origin
from edgedistill.models.vocabulary import Vocabulary, read_vocabulary
from edgedistill.progress import Progress


def build_new(student: ConfigStudent, origin: Origin, work: Path, progress: Progress) -> None:
    """Write the student to `work`. Of the teacher only the tables are in memory."""
    source = origin.teacher
    teacher = origin.shape()
    shape, vocabulary = student.shape(teacher), read_vocabulary(source)
    tables = load_tensors(source, [EMBEDDING] if teacher.tied else [EMBEDDING, HEAD])
    state = initial_weights(shape, vocabulary, student.seed)
    for name, table in tables.items():
        read_as = teacher.embedding_scale / shape.embedding_scale if name == EMBEDDING else 1.0
        state[name] = projected(table, shape.width) * read_as
    save_model(build_model(shape, state.items(), torch.float32, vocabulary, source), source, work)


def initial_weights(shape: ModelShape, vocabulary: Vocabulary, seed: int) -> dict[str, Tensor]:
    """The weights that transformers begins a model of this shape with, by name, after `torch.manual_seed(seed)`."""
    import transformers

    config = model_config(shape, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, FAMILIES[shape.family].model_class)(config)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def projected(table: Tensor, width: int) -> Tensor:
    """A table [V, D] on its first `width` right singular vectors, [V, width] float32 of the same root mean square.

    Raises:
        ValueError: it isn't so wide.
    """
    if width > table.shape[1]:
        raise ValueError(f"a table of {table.shape[1]} columns has no {width} directions")
    wide = table.double()
    _, vectors = torch.linalg.eigh(wide.T @ wide)  # rising: the last are of most variance
    directions = vectors[:, -width:].flip(1)
    # A direction has no sign of its own: the largest of its elements is made positive.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    narrow = wide @ (directions * largest.sign())
    return (narrow * (wide.square().mean() / narrow.square().mean()).sqrt()).float()
