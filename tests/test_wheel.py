"""The wheel: what travels in it, and that it works from a folder of its own without the checkout."""

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
IMPORT_NAMES = {
    "llama-cpp-python": "llama_cpp",
    "protobuf": "google",
    "pyyaml": "yaml",
}  # where they differ by more than a dash


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by hatchling itself: needs no network, unlike `pip wheel` with its isolated build."""
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("edgedistill-*-py3-none-any.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into, away from the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--no-index",
            "--no-deps",
            "--target",
            folder,
            wheel,
        ],
        check=True,
    )
    return folder


@pytest.fixture
def run(installed: Path, tmp_path: Path):
    """Run the installed edgedistill in an empty folder; PYTHONPATH comes before the checkout that the environment may
    hold.
    """

    def run_command(*args: str | Path) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(installed)}
        return subprocess.run(
            [sys.executable, "-m", "edgedistill", *args], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    return run_command


def names(folder: str) -> list[str]:
    """The recipes or targets of the checkout."""
    found = sorted(path.stem for path in (ROOT / folder).glob("*.yaml"))
    assert found, f"{folder}/ is empty"
    return found


def test_wheel_holds_every_file_of_the_package_and_nothing_of_the_tests(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "edgedistill").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    data = {f"edgedistill/_data/{folder}/{name}.yaml" for folder in ("recipes", "targets") for name in names(folder)}
    rows = {f"edgedistill/_data/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.jsonl")}
    assert rows, "the recipe assistant brings its rows"
    assert packed == package | data | rows
    assert "edgedistill/py.typed" in packed


def test_wheel_says_what_it_is(wheel: Path):
    from edgedistill import __version__

    with zipfile.ZipFile(wheel) as archive:
        info = f"edgedistill-{__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        licence = archive.read(f"{info}/licenses/LICENSE").decode()
    assert f"Version: {__version__}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Requires-Python: <3.14,>=3.10\n" in metadata
    assert "edgedistill = edgedistill.cli.main:main" in scripts
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def imported_packages(source: bytes) -> set[str]:
    """Top-level names of all absolute imports in a source file, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_packages_that_are_imported_are_the_ones_declared(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (
            archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/METADATA")
        )
        imported = set().union(
            *(imported_packages(archive.read(name)) for name in archive.namelist() if name.endswith(".py"))
        )
    required = re.findall(r"^Requires-Dist: ([A-Za-z0-9_.-]+)([^\n]*)$", metadata, re.MULTILINE)
    declared = {
        IMPORT_NAMES.get(name.lower(), name.lower().replace("-", "_"))
        for name, rest in required
        if not re.search(r"extra == '(dev|fuzz)'", rest)
    }
    assert imported - set(sys.stdlib_module_names) - {"edgedistill"} == declared


def test_installed_package_is_the_one_that_runs(installed: Path, tmp_path: Path):
    env = {**os.environ, "PYTHONPATH": str(installed)}
    code = "import edgedistill; print(edgedistill.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(installed)


@pytest.mark.parametrize("folder", ["recipes", "targets"])
def test_installed_edgedistill_lists_what_the_checkout_holds(run, folder: str):
    done = run(folder, "list", "--json")
    assert done.returncode == 0, done.stderr
    extra = ["this-machine"] if folder == "targets" else []  # which has no file
    assert sorted(row["name"] for row in json.loads(done.stdout)) == sorted([*names(folder), *extra])


def test_installed_edgedistill_plans_with_a_named_recipe_and_target(run, tiny_llama: Path, tmp_path: Path):
    done = run("plan", "--teacher", tiny_llama, "--target", "laptop-cpu", "--recipe", "tiny", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"]["name"] == "laptop-cpu"
    assert not list(tmp_path.iterdir()), "a plan writes nothing"


@pytest.mark.slow
def test_installed_edgedistill_compiles_with_a_named_recipe_and_target(run, talking_llama: Path, tmp_path: Path):
    done = run("compile", "--teacher", talking_llama, "--target", "laptop-cpu", "--recipe", "tiny", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("out/bundle/*.gguf"))
    assert list(tmp_path.glob("out/bundle/onnx*/onnx/*.onnx"))
