"""One pass over the text, a layer at a time, against the passes of the whole model; a kill anywhere changes nothing."""

from pathlib import Path

import pytest
import torch

from edgedistill.data.example import Example, counted_from
from edgedistill.facts import EMBEDDING, HEAD
from edgedistill.progress import QuietProgress
from edgedistill.recover.curvature import CurvatureFiles, measure_curvature
from edgedistill.recover.layered_curvature import STATES, measure_layered_curvature
from edgedistill.recover.scores import ScoredText
from edgedistill.recover.triangle import from_triangle, to_triangle
from tests.kills import Killed
from tests.tiny import make_tiny


def documents() -> list[Example]:
    generator = torch.Generator().manual_seed(4)
    return [counted_from(torch.randint(3, 300, (n,), generator=generator, dtype=torch.int32)) for n in (40, 31, 48, 17)]


def both(model: Path, folder: Path, compute: str) -> tuple[CurvatureFiles, CurvatureFiles]:
    text = ScoredText(documents(), 48, compute, 9)
    whole, layered = folder / "whole", folder / "layered"
    for work, measure in ((whole, measure_curvature), (layered, measure_layered_curvature)):
        work.mkdir()
        measure(model, text, work, QuietProgress())
    assert not (layered / STATES).exists()
    return CurvatureFiles(whole), CurvatureFiles(layered)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "granite", "phi3"])
def test_layers_are_those_of_the_whole_model(family: str, compute: str, tmp_path: Path):
    whole, layered = both(make_tiny(family, tmp_path / family), tmp_path, compute)
    assert set(whole) == set(layered)
    for name, expected in whole.items():
        ours = layered[name]
        lower = expected.matrix.tril()
        if name in (EMBEDDING, HEAD):  # summed up in another order
            torch.testing.assert_close(ours.matrix.tril(), lower, rtol=2e-3, atol=1e-3)
            assert ours.scale == pytest.approx(expected.scale, rel=1e-5)
        else:
            assert torch.equal(ours.matrix.tril(), lower), name
            assert ours.scale == expected.scale


def test_a_kill_after_any_layer_changes_nothing(tiny_llama: Path, tmp_path: Path):
    text = ScoredText(documents(), 48, "float32", 9)
    work = {name: tmp_path / name for name in ("whole", "killed")}
    for folder in work.values():
        folder.mkdir()
    measure_layered_curvature(tiny_llama, text, work["whole"], QuietProgress())
    for after in (2, 4, 5, 7):
        with pytest.raises(KeyboardInterrupt):
            measure_layered_curvature(tiny_llama, text, work["killed"], Killed(after))
    assert (work["killed"] / STATES).is_dir()
    measure_layered_curvature(tiny_llama, text, work["killed"], QuietProgress())
    names = sorted(path.name for path in work["whole"].iterdir())
    assert names == sorted(path.name for path in work["killed"].iterdir())
    assert all((work["whole"] / name).read_bytes() == (work["killed"] / name).read_bytes() for name in names)


@pytest.mark.parametrize("size", [3, 256, 700])
def test_a_triangle_gives_the_matrix_back(size: int):
    rows = torch.randn(size, size, generator=torch.Generator().manual_seed(1)).half().float()
    matrix = rows.tril() + rows.tril(-1).T
    triangle = to_triangle(matrix)
    assert triangle.dtype == torch.float16
    assert len(triangle) <= size * (size + 256) // 2 + 256**2
    assert torch.equal(from_triangle(triangle, size), matrix)
