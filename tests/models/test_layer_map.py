"""Which teacher's layers a student's are compared with: by a cut's kept indices, else evenly."""

import json
from pathlib import Path

import pytest

from edgedistill.models.identity import Identity, write_identity
from edgedistill.models.layer_map import LayerMap, read_layer_map


def test_a_cut_reads_what_its_next_block_read_in_the_teacher():
    """Of six blocks 0, 2, 3 and 5 are kept: after its first block the student should stand where block 2 began."""
    layers = LayerMap(4, 6, (0, 2, 3, 5))
    assert [layers.state(n) for n in (1, 2, 3, 4)] == [2, 3, 5, 6]
    assert [layers.block(n) for n in (1, 2, 3, 4)] == [1, 3, 4, 6]


@pytest.mark.parametrize(
    ("student", "teacher", "states"), [(4, 12, [3, 6, 9, 12]), (3, 4, [1, 3, 4]), (6, 4, [1, 1, 2, 3, 3, 4])]
)
def test_others_are_spaced_evenly_and_end_at_the_end(student: int, teacher: int, states: list[int]):
    layers = LayerMap(student, teacher)
    assert [layers.state(n) for n in range(1, student + 1)] == states
    assert [layers.block(n) for n in range(1, student + 1)] == states


@pytest.mark.parametrize(("kind", "kept"), [("depth", (0, 2)), ("run", None)])
def test_only_a_cut_of_this_teacher_says_what_it_kept(tmp_path: Path, kind: str, kept: tuple[int, ...] | None):
    write_identity(Identity("a", None, kind), None, tmp_path)
    assert read_layer_map(tmp_path, 2, 3) == LayerMap(2, 3)
    (tmp_path / "layers.json").write_text(json.dumps({"kept": [0, 2], "influence": []}))
    assert read_layer_map(tmp_path, 2, 3) == LayerMap(2, 3, kept)
