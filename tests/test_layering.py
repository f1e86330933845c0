"""Imports point to lower layers only, rooms of one layer never import each other, and `--help` and `plan` never load
torch.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edgedistill"
LAYERS = [
    {"families"},
    {"errors", "units", "extras", "formats", "facts", "progress", "licences"},
    {"mixes"},
    {"config", "store", "records", "machine"},
    {"plan", "data", "models", "signals", "losses", "quant"},
    {"train", "devices", "runtimes"},
    {"teach", "distill", "recover", "export", "measure", "report", "bundle"},
    {"stages"},
    {"compile", "compare"},
    {"cli"},
    {"__main__"},
]
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms} | {"errors": -1}  # all may raise
HEAVY = {"torch", "transformers", "datasets", "onnx", "onnxruntime", "llama_cpp", "accelerate", "peft", "matplotlib"}
# Rooms and files that must load without them: the planner, the store and all that `--help` and `plan` touch.
LIGHT = {
    *LAYERS[0],
    *LAYERS[1],
    *LAYERS[2],
    *LAYERS[3],
    "plan",
    "report",
    "bundle",
    "stages",
    "compile",
    "compare",
    "cli",
    "__main__",
}
LIGHT_FILES = {"models/source.py", "models/facts.py", "models/gguf_file.py"}


def room_of(path: Path) -> str:
    """The room that a file of the package belongs to: its folder, or its own name at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, everywhere: bool) -> set[str]:
    """Modules that a file imports, `edgedistill.x` for `from edgedistill import x`; at its top only, or anywhere in
    it.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree) if everywhere else top_level(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides the room"
            # `from edgedistill.report import svg` may mean the room's own name or the file report/svg.py.
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            files = {name for name in submodules if ROOT.joinpath(*name.split(".")).with_suffix(".py").is_file()}
            found |= submodules if node.module == "edgedistill" else files or {str(node.module)}
    return found


def top_level(tree: ast.Module) -> list[ast.AST]:
    """Nodes that run when the module is imported: not those in functions, nor under `if TYPE_CHECKING`."""
    found: list[ast.AST] = []
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        found.append(node)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, (ast.stmt, ast.ExceptHandler))]
    return found


def rooms_imported(path: Path) -> set[str]:
    """Rooms of edgedistill that a file imports, anywhere in it."""
    parts = (module.split(".") for module in imports(path, everywhere=True))
    return {part[1] for part in parts if part[0] == "edgedistill" and len(part) > 1 and part[1] != "__version__"}


FILES = sorted(PACKAGE.rglob("*.py"))


def test_the_package_was_found_and_every_room_has_a_layer():
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert {"plan", "store", "cli", "quant"} <= rooms
    assert rooms <= set(LAYER_OF), f"no layer for {rooms - set(LAYER_OF)}: add it to LAYERS"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_to_lower_layers(path: Path):
    room = room_of(path)
    if room == "__init__":
        assert not rooms_imported(path), "the package itself imports nothing of its own"
        return
    for other in rooms_imported(path) - {room}:
        assert LAYER_OF[other] < LAYER_OF[room], (
            f"{room} (layer {LAYER_OF[room]}) imports {other} (layer {LAYER_OF[other]})"
        )


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if room_of(p) in LIGHT or str(p.relative_to(PACKAGE)) in LIGHT_FILES],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_light_rooms_import_nothing_heavy_at_their_top(path: Path):
    heavy = {module for module in imports(path, everywhere=False) if module.split(".")[0] in HEAVY}
    assert not heavy


def test_no_file_is_part_of_an_import_cycle():
    """Between files, counting only what runs at import: nanochat has none, Olive has one through 12 of its 23 rooms."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    edges = {
        name: {found for found in imports(path, everywhere=False) if found in names and found != name}
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in names:
        visit(name, ())


def loaded_by(*args: object) -> tuple[set[str], float]:
    """Top-level modules that a command loads, and its CPU seconds."""
    code = (
        "import resource, sys\n"
        "from edgedistill.cli.main import cli\n"
        "code = cli.main(sys.argv[1:], standalone_mode=False)\n"
        "assert code in (None, 0), code\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "sys.stderr.write(f'{used.ru_utime + used.ru_stime}\\n' + '\\n'.join(sys.modules))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    seconds, *modules = done.stderr.splitlines()
    return {module.split(".")[0] for module in modules}, float(seconds)


def test_help_loads_nothing_heavy_and_is_quick():
    modules, seconds = loaded_by("--help")
    assert "click" in modules
    assert not modules & (HEAVY | {"pydantic", "numpy", "yaml"})
    assert seconds < 0.5


def test_plan_loads_nothing_heavy_and_is_quick(tiny_llama: Path):
    modules, seconds = loaded_by(
        "plan", "--teacher", tiny_llama, "--target", "laptop-cpu", "--recipe", "tiny", "--json"
    )
    assert "pydantic" in modules
    assert not modules & HEAVY
    assert seconds < 3


@pytest.mark.parametrize(
    "command",
    [
        "compile",
        "recover",
        "compare",
        "plan",
        "verify",
        "bench",
        "chat",
        "serve",
        "targets",
        "recipes",
        "runs",
        "doctor",
    ],
)
def test_no_commands_own_help_loads_torch(command: str):
    modules, _ = loaded_by(command, "--help")
    assert not modules & (HEAVY | {"fastapi", "uvicorn"})


def test_every_recipe_setting_is_read_by_something():
    """A key that nothing reads would look like a choice and change nothing."""
    from edgedistill.config import load_recipe

    texts = {path: path.read_text(encoding="utf-8") for path in FILES if room_of(path) not in ("config", "plan")}
    # Read by a method of the recipe, or with one choice only.
    elsewhere = {"layers", "depth", "tokens_by_mix", "rate_by_mix", "scale_learning_rate"}
    elsewhere |= {"recover.tokens", "recover.train", "recover.loss"}
    unread = []
    for part, settings in load_recipe("chat").to_dict().items():
        own = "\n".join(text for path, text in texts.items() if room_of(path) == part)
        for name in settings if isinstance(settings, dict) else ():
            named = any(re.search(rf"\b{part}\.{name}\b", text) for text in texts.values())
            if not (named or re.search(rf"\bsettings\.{name}\b", own) or {name, f"{part}.{name}"} & elsewhere):
                unread.append(f"{part}.{name}")
    assert not unread
