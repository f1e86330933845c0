"""The grid checkpoint on disk: what was saved, the same bytes every time, and broken files named."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgedistill.errors import InputError
from edgedistill.quant.checkpoint import FILE, GridCheckpoint, load_grid, save_grid
from edgedistill.quant.fit import fit_ggml
from edgedistill.quant.grids import GridTensor


def make() -> GridCheckpoint:
    torch.manual_seed(0)
    tensors = {
        f"layer.{i}.weight": fit_ggml(torch.randn(4, 64), grid) for i, grid in enumerate(("q4_0", "q8_0", "q4_0"))
    }
    return GridCheckpoint("q4_0", {**tensors, "norm.weight": torch.randn(64)})


def test_round_trip(tmp_path: Path):
    saved = make()
    save_grid(tmp_path, saved)
    found = load_grid(tmp_path)
    assert found.mix == "q4_0"
    assert set(found.tensors) == set(saved.tensors)
    assert all(torch.equal(found.decode(name), saved.decode(name)) for name in saved.tensors)


def test_equal_checkpoints_are_equal_files(tmp_path: Path):
    """In processes of their own: a hash seed that differs must not show."""
    script = (
        "import sys; from pathlib import Path; from tests.quant.test_checkpoint import *; "
        "save_grid(Path(sys.argv[1]), make())"
    )
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", script, tmp_path / name], check=True)
    assert len({(tmp_path / name / FILE).read_bytes() for name in ("a", "b", "c")}) == 1


def test_broken_files_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="no such file; a checkpoint on its grid is a folder"):
        load_grid(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(InputError, match=r"schema is None; this version reads 'edgedistill.grid/2'"):
        load_grid(tmp_path)
    save_grid(tmp_path, GridCheckpoint("q4_0", {"x": GridTensor("q4_0", torch.zeros(2, 35, dtype=torch.uint8))}))
    with pytest.raises(InputError, match=r"x is torch.uint8 \[2, 35\]; q4_0 takes bytes in rows of whole blocks of 18"):
        load_grid(tmp_path)
    save_grid(tmp_path, make())
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-9])
    with pytest.raises(InputError, match="not a whole checkpoint on its grid"):
        load_grid(tmp_path)
