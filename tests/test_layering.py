"""Imports point to lower layers only, no files import each other in a circle, and `--help` and `plan` load no torch.

The layers are those of the table in CONTRIBUTING.md, which this file reads.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edgedistill"
TABLE = ROOT / "CONTRIBUTING.md"


def layers_of(text: str) -> dict[str, float]:
    """The number of every room in a table with rows such as "| 2 | `mixes` `results`: words |"."""
    rows = re.findall(r"^\| (\d+) \| ((?:`\w+` ?)+)", text, flags=re.MULTILINE)
    return {room: float(number) for number, rooms in rows for room in re.findall(r"\w+", rooms)}


LAYER_OF = layers_of(TABLE.read_text(encoding="utf-8"))
# Rooms on the move: those of the first list are being filled with what lies in those of the second.
ARRIVING = {"results", "show"}
LEAVING = {"records": 1.5}
LAYER_OF |= {"__main__": 1 + max(LAYER_OF.values())} | LEAVING
HEAVY = {"torch", "transformers", "datasets", "onnx", "onnxruntime", "llama_cpp", "accelerate", "peft", "matplotlib"}
# Rooms and files that must load without them: the planner, the store and all that `--help` and `plan` touch.
LIGHT = {room for room, number in LAYER_OF.items() if number <= 3}
LIGHT |= {"plan", "report", "bundle", "pipeline", "cli", "__main__"}
LIGHT_FILES = {f"models/{name}.py" for name in ("source", "hub", "wheel", "facts", "gguf_file", "gguf_header")}


def room_of(path: Path) -> str:
    """The room that a file of the package belongs to: its folder, or its own name at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, everywhere: bool) -> set[str]:
    """Modules that a file imports, `edgedistill.x` for `from edgedistill import x`.

    At its top only, or anywhere in it; what stands under `if TYPE_CHECKING` never runs and doesn't count.
    """
    modules: set[str] = set()
    for node in nodes_that_run(ast.parse(path.read_text(encoding="utf-8")), everywhere):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides the room"
            modules |= {module_of(str(node.module), alias.name) for alias in node.names}
    return modules


def module_of(module: str, name: str) -> str:
    """What `from module import name` loads: the file module/name.py where there is one, else the module."""
    submodule = f"{module}.{name}"
    is_room = module == "edgedistill"
    is_file = ROOT.joinpath(*submodule.split(".")).with_suffix(".py").is_file()
    return submodule if is_room or is_file else module


def nodes_that_run(tree: ast.Module, everywhere: bool) -> Iterator[ast.AST]:
    """Nodes outside `if TYPE_CHECKING`; unless `everywhere`, those outside functions, which run at import."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif everywhere or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += ast.iter_child_nodes(node)


def rooms_imported(path: Path) -> set[str]:
    """Rooms of edgedistill that a file imports, anywhere in it."""
    parts = (module.split(".") for module in imports(path, everywhere=True))
    return {part[1] for part in parts if part[0] == "edgedistill" and len(part) > 1 and part[1] != "__version__"}


FILES = sorted(PACKAGE.rglob("*.py"))


def test_the_table_of_the_contributing_page_names_every_room_and_no_other():
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert {"plan", "store", "cli", "quant"} <= rooms
    missing, empty = rooms - set(LAYER_OF), set(LAYER_OF) - rooms - ARRIVING - set(LEAVING)
    assert not missing, f"no layer for {missing}: add a room to the table of {TABLE.name}, at its number"
    assert not empty, f"{TABLE.name} names {empty}, and no such room exists"


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


def cycles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Ways that come back to where they began, one for each file that closes one; each file is visited once."""
    closed: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        if name in way:
            closed.append([*way[way.index(name) :], name])
            return
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, [*way, name])
            done.add(name)

    for name in sorted(edges):
        visit(name, [])
    return closed


def test_no_file_is_part_of_an_import_cycle():
    """Nor of one through an import inside a function: nanochat has none, Olive has one through 12 of its 23 rooms."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    edges = {name: (imports(path, everywhere=True) & set(names)) - {name} for name, path in names.items()}
    assert not [" -> ".join(way) for way in cycles(edges)]


def test_a_cycle_is_told_from_two_ways_to_one_file():
    assert cycles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]


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
    elsewhere = {"layers", "depth", "batch_tokens", "tokens_by_mix", "rate_by_mix", "scale_learning_rate"}
    elsewhere |= {"recover.tokens", "recover.train", "recover.loss"}
    unread = []
    elsewhere |= {"student.kind", "student.of", "teacher.does", "teacher.top_k", "distill.train"}
    elsewhere |= {"student.kinds", "student.mixes"}  # by the planner
    parts = load_recipe("chat").to_dict()
    parts["teacher"] = parts.pop("teachers")["teacher"]
    (parts["distill"],) = parts.pop("phases")
    for part, settings in parts.items():
        own = "\n".join(text for path, text in texts.items() if room_of(path) == part)
        for name in settings if isinstance(settings, dict) else ():
            named = any(re.search(rf"\b{part}\.{name}\b", text) for text in texts.values())
            if not (named or re.search(rf"\b(settings|phase)\.{name}\b", own) or {name, f"{part}.{name}"} & elsewhere):
                unread.append(f"{part}.{name}")
    assert not unread
