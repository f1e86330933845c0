"""Optional packages: imported, or named with the line that installs them."""

import sys
from pathlib import Path

import pytest

from edgedistill.errors import InputError
from edgedistill.extras import require


def test_a_package_that_is_there_is_imported():
    assert require("json", extra="onnx", purpose="ONNX export") is sys.modules["json"]


def test_a_missing_package_is_named_with_the_line_that_installs_it():
    words = r"ONNX export needs no_such_package, which is not installed\. Run: pip install 'edgedistill\[onnx\]'"
    with pytest.raises(InputError, match=words):
        require("no_such_package", extra="onnx", purpose="ONNX export")


def test_a_package_that_lacks_one_of_its_own_is_a_bug_not_a_missing_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "half_installed.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        require("half_installed", extra="onnx", purpose="ONNX export")
