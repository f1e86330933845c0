"""Which checkpoints of a run its files are compared with, and what is said where it has none."""

from pathlib import Path

import pytest

from edgedistill.errors import InputError
from edgedistill.export.verify import checkpoints_of
from edgedistill.store.run import RunFolder


def test_a_comparison_of_rounded_files_is_told_from_a_run_that_is_not_done(tmp_path: Path):
    run = RunFolder.open(tmp_path / "run", {"teacher": "m"})
    run.current["rounded-q4_0"] = "rounded-q4_0-0123456789ab"
    with pytest.raises(InputError, match="no recovered checkpoint yet; run `edgedistill compile` to its end first"):
        checkpoints_of(run)
    (run.path / "bundle").mkdir()
    with pytest.raises(InputError, match="its files were only rounded, .* run `edgedistill compare` again with --rec"):
        checkpoints_of(run)
