"""Counts over the package's source that stand for how hard it is to read.

Run    python bench/counts.py [FOLDER]           a table for the working tree's edgedistill/, or for another folder
       python bench/counts.py --rev REVISION     the same of a git revision, read through `git archive`
       python bench/counts.py --json             writes bench/results/counts.json: revision BEFORE and the working tree

Everything is read from the syntax tree, so that text in comments and strings counts nowhere.
"""

import argparse
import ast
import io
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "edgedistill"
OUT = ROOT / "bench" / "results" / "counts.json"
BEFORE = "ddaabcc"  # the last revision before the second reading of the style guide

LINE_LIMIT = 120  # columns
FILE_LIMIT = 300  # lines
PARAMETER_LIMIT = 6
NAMES = ("found", "asked", "wanted", "made", "known", "mine", "told")
UNTYPED = ("Mapping[str, Any]", "dict[str, Any]")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Counts:
    """What was counted in one file, or in all files of a package."""

    files: int
    lines: int  # blank ones left out
    untyped_annotations: int  # parameters and returns outside cli/ that are a Mapping[str, Any] or dict[str, Any]
    conditional_expressions: int
    nested_conditional_expressions: int
    comprehensions: int
    long_signatures: int  # functions past PARAMETER_LIMIT parameters
    participles: Mapping[str, int]  # uses of each of NAMES as a name
    long_lines: int
    long_files: int

    @property
    def conditional_expressions_per_1000_lines(self) -> float:
        return 1000 * self.conditional_expressions / max(1, self.lines)

    @property
    def comprehensions_per_1000_lines(self) -> float:
        return 1000 * self.comprehensions / max(1, self.lines)

    def figures(self) -> dict[str, float]:
        """Every count by the words that the table shows."""
        return {
            "files": self.files,
            "lines": self.lines,
            "Mapping[str, Any] or dict[str, Any] in signatures, outside cli": self.untyped_annotations,
            "conditional expressions": self.conditional_expressions,
            "conditional expressions per 1,000 lines": round(self.conditional_expressions_per_1000_lines, 1),
            "nested conditional expressions": self.nested_conditional_expressions,
            "comprehensions": self.comprehensions,
            "comprehensions per 1,000 lines": round(self.comprehensions_per_1000_lines, 1),
            f"functions past {PARAMETER_LIMIT} parameters": self.long_signatures,
            **{f"uses of the name `{name}`": self.participles[name] for name in NAMES},
            f"lines past {LINE_LIMIT} columns": self.long_lines,
            f"files past {FILE_LIMIT} lines": self.long_files,
        }


def counts_of(sources: Mapping[str, str]) -> Counts:
    """Counts over a package's sources, by path relative to the package."""
    files = [_counts_of_file(path, source) for path, source in sources.items()]
    return Counts(
        files=len(files),
        lines=sum(file.lines for file in files),
        untyped_annotations=sum(file.untyped_annotations for file in files),
        conditional_expressions=sum(file.conditional_expressions for file in files),
        nested_conditional_expressions=sum(file.nested_conditional_expressions for file in files),
        comprehensions=sum(file.comprehensions for file in files),
        long_signatures=sum(file.long_signatures for file in files),
        participles={name: sum(file.participles[name] for file in files) for name in NAMES},
        long_lines=sum(file.long_lines for file in files),
        long_files=sum(file.long_files for file in files),
    )


def _counts_of_file(path: str, source: str) -> Counts:
    tree = ast.parse(source, path)
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, Function)]
    conditionals = [node for node in nodes if isinstance(node, ast.IfExp)]
    names = Counter(_names(nodes))
    lines = source.splitlines()
    untyped = (*UNTYPED, *_aliases(tree))
    typed_functions = [] if path.startswith("cli/") else functions
    return Counts(
        files=1,
        lines=sum(1 for line in lines if line.strip()),
        untyped_annotations=sum(_untyped(function, untyped) for function in typed_functions),
        conditional_expressions=len(conditionals),
        nested_conditional_expressions=sum(map(_is_nested, conditionals)),
        comprehensions=sum(isinstance(node, COMPREHENSIONS) for node in nodes),
        long_signatures=sum(len(_parameters(function)) > PARAMETER_LIMIT for function in functions),
        participles={name: names[name] for name in NAMES},
        long_lines=sum(len(line) > LINE_LIMIT for line in lines),
        long_files=int(len(lines) > FILE_LIMIT),
    )


def _names(nodes: list[ast.AST]) -> Iterator[str]:
    """Each use of a variable, parameter, attribute, keyword or definition."""
    for node in nodes:
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, (ast.arg, ast.keyword)):
            yield node.arg or ""
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name


def _parameters(function: Function) -> list[ast.arg]:
    """A function's parameters without `self` and `cls`; *args and **kwargs count one each."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    rest = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return [argument for argument in [*named, *rest] if argument.arg not in ("self", "cls")]


def _aliases(tree: ast.Module) -> list[str]:
    """Names that a file gives to an untyped mapping, as in `Row = Mapping[str, Any]`."""
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    untyped = [node for node in assigned if ast.unparse(node.value) in UNTYPED]
    return [ast.unparse(target) for node in untyped for target in node.targets]


def _untyped(function: Function, untyped: tuple[str, ...]) -> int:
    """How many of a function's annotations hold one of the untyped mappings."""
    annotations = [argument.annotation for argument in _parameters(function)]
    written = [ast.unparse(annotation) for annotation in [*annotations, function.returns] if annotation is not None]
    pattern = "|".join(rf"(?<![\w.]){re.escape(name)}(?!\w)" for name in untyped)
    return sum(1 for annotation in written if re.search(pattern, annotation))


def _is_nested(conditional: ast.IfExp) -> bool:
    """Whether another conditional expression stands inside it."""
    return any(isinstance(node, ast.IfExp) for node in ast.walk(conditional) if node is not conditional)


def sources_in(package: Path) -> dict[str, str]:
    """The sources of a folder, by path relative to it."""
    files = sorted(package.rglob("*.py"))
    if not files:
        raise SystemExit(f"{package} holds no Python files")
    return {str(file.relative_to(package)): file.read_text(encoding="utf-8") for file in files}


def sources_at(revision: str) -> dict[str, str]:
    """The sources of the package at a git revision."""
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", revision, PACKAGE]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    sources = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            content = files.extractfile(member)
            if content is not None and member.name.endswith(".py"):
                sources[member.name.removeprefix(f"{PACKAGE}/")] = content.read().decode("utf-8")
    return sources


def table(columns: Mapping[str, Counts]) -> str:
    """A Markdown table: one row for each count, one column for each package."""
    figures = {name: counts.figures() for name, counts in columns.items()}
    rows = [["", *figures], ["---", *["---:"] * len(figures)]]
    for count in next(iter(figures.values())):
        rows.append([count, *(f"{column[count]:,}" for column in figures.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def record() -> dict[str, object]:
    """Both columns as they are written to OUT."""
    before, after = counts_of(sources_at(BEFORE)), counts_of(sources_in(ROOT / PACKAGE))
    return {
        "command": "python bench/counts.py --json",
        "before": {"revision": BEFORE, **asdict(before), "figures": before.figures()},
        "after": {**asdict(after), "figures": after.figures()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / PACKAGE, help="a package's folder")
    parser.add_argument("--rev", help="a git revision, in place of a folder")
    parser.add_argument("--json", action="store_true", help=f"write {OUT.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if arguments.json:
        OUT.write_text(json.dumps(record(), indent=2) + "\n", encoding="utf-8")
        sys.stdout.write(f"{OUT}\n")
        columns = {BEFORE: counts_of(sources_at(BEFORE)), "now": counts_of(sources_in(ROOT / PACKAGE))}
    elif arguments.rev:
        columns = {arguments.rev: counts_of(sources_at(arguments.rev))}
    else:
        columns = {arguments.folder.name: counts_of(sources_in(arguments.folder))}
    sys.stdout.write(table(columns) + "\n")


if __name__ == "__main__":
    main()
