"""Which of a teacher's layers a student's layer is compared with. No torch.

A student cut in depth is mapped by the blocks that the cut kept: after its i-th block, its state is what the next kept
block reads, so it is compared with what that block read in the teacher. So a block learns to do what those did that
were cut behind it. Others are spaced evenly, as in Patient KD's skip strategy (Sun et al. 2019, arXiv 1908.09355).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from edgedistill.models.identity import LAYERS, read_identity

CUT_IN_DEPTH = ("depth", "depth+width")  # kinds of students whose layers.json tells of this teacher


@dataclass(frozen=True)
class LayerMap:
    """A student's layers among its teacher's.

    Attributes:
        student, teacher: how many layers each has.
        kept: indices, from 0, of the teacher's blocks that a cut in depth kept; None for other students.
    """

    student: int
    teacher: int
    kept: tuple[int, ...] | None = None

    def state(self, layer: int) -> int:
        """After how many of the teacher's blocks its state is compared with that after `layer` of the student's."""
        if layer == self.student:
            return self.teacher
        if self.kept is not None:
            return self.kept[layer]
        return max(1, round(layer * self.teacher / self.student))

    def block(self, block: int) -> int:
        """The teacher's block, from 1, whose attention is compared with the student's."""
        if block == self.student:
            return self.teacher
        if self.kept is not None:
            return self.kept[block - 1] + 1
        return max(1, round(block * self.teacher / self.student))


def read_layer_map(folder: Path, student: int, teacher: int) -> LayerMap:
    """The map of the student in a folder; `student`, `teacher`: their layers."""
    path = folder / LAYERS
    if not path.is_file() or read_identity(folder).kind not in CUT_IN_DEPTH:
        return LayerMap(student, teacher)
    kept = tuple(json.loads(path.read_text(encoding="utf-8"))["kept"])
    return LayerMap(student, teacher, kept)
