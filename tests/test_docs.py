"""What the pages say exists: commands, options, keys, files, links, tables. So that the documentation can't rot
unseen.
"""

import ast
import functools
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))  # as bench/ is found from the root: scripts, no package

import make_reference  # noqa: E402

DOCS = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))]
PAGES = ["README.md", "CONTRIBUTING.md", "bench/README.md", *DOCS]
GUIDES = [page for page in DOCS if "reference/" not in page]
WITHOUT_COMMANDS = {"docs/README.md", "docs/models.md", "docs/recovery.md"}
KINDS = {"recipe": "recipes", "target": "targets"}


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fenced(page: str) -> Iterator[tuple[str, str]]:
    """The language and the content of each fenced block."""
    for found in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", read(page), re.MULTILINE | re.DOTALL):
        yield found[2], found[3]


def plain(page: str) -> str:
    """A page without its blocks of code, in which # and [] mean something else."""
    text = re.sub(r"^( *)```.*?^\1```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4,}.*$", "", text, flags=re.MULTILINE)


# Commands.


def command_lines(page: str) -> list[str]:
    """The `edgedistill ...` commands in a page's blocks of code, without what a shell takes away: pipes, comments,
    files written.
    """
    blocks = [re.sub(r"^ {4,}", "", line) for line in read(page).splitlines() if re.match(r" {4,}\S", line)]
    blocks += [
        line for language, text in fenced(page) if language in ("sh", "bash", "console") for line in text.splitlines()
    ]
    parts = (part.strip() for line in blocks for part in re.split(r"\||&&|;|\s#\s", line))
    return [part.partition(">")[0].strip() for part in parts if part.startswith("edgedistill ")]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words call, and the words that are left for it."""
    from edgedistill.cli.main import cli

    command: click.Command = cli
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"there is no command {words[0]!r}"
        command, words = found, words[1:]
    return command, words


COMMAND_LINES = [(page, line) for page in PAGES if "reference/" not in page for line in command_lines(page)]


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES, ids=[f"{page}: {line}" for page, line in COMMAND_LINES])
def test_command_lines_of_the_pages_are_understood(page: str, line: str):
    """Command, options, their values and the arguments are what Click takes; nothing is run."""
    command, words = command_of(shlex.split(line)[1:])
    command.make_context("edgedistill", words, resilient_parsing=False)


def test_command_lines_are_found_where_people_look_first():
    found = [shlex.split(line)[1] for page, line in COMMAND_LINES if page == "README.md"]
    assert {"compile", "recover", "plan", "verify", "chat"} <= set(found)
    assert {page for page, _ in COMMAND_LINES} >= set(GUIDES) - WITHOUT_COMMANDS


@pytest.mark.parametrize(
    "line",
    [
        "edgedistill plan --targt phone",
        "edgedistill chat x --runtime tflite",
        "edgedistill compile -o x",
        "edgedistill fly",
    ],
)
def test_a_wrong_command_line_is_noticed(line: str):
    with pytest.raises((click.UsageError, AssertionError)):
        test_command_lines_of_the_pages_are_understood("", line)


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_named_in_passing_exist(page: str):
    from edgedistill.cli.main import COMMANDS

    text = re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)
    for words in re.findall(r"`edgedistill ([a-z]+)(?: ([a-z]+))?[^`]*`", text):
        assert words[0] in COMMANDS, words
        command, rest = command_of([word for word in words if word])
        assert not rest or not isinstance(command, click.Group), words


def test_every_command_has_an_example_that_is_understood():
    from edgedistill.cli.main import cli

    for command, names in make_reference.walk(cli, ()):
        text, example = make_reference.help_of(command)
        assert text, names
        assert example, f"{' '.join(names)} shows no example"
        for line in example:
            called = next(part.strip() for part in line.split("|") if part.strip().startswith("edgedistill "))
            found, words = command_of(shlex.split(called.partition(">")[0])[1:])
            found.make_context("edgedistill", words)


# The reference.


def test_the_reference_is_what_the_code_gives():
    made = make_reference.pages()
    assert set(make_reference.OUT.glob("*.md")) == set(made)
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, "run python docs/make_reference.py"


def test_the_reference_has_every_command_and_every_key():
    from edgedistill.cli.main import COMMANDS
    from edgedistill.config import recipe_schema, target_schema

    commands = make_reference.commands_page()
    assert set(re.findall(r"^## ([a-z]+)$", commands, re.MULTILINE)) == set(COMMANDS)
    assert "......" not in commands
    for page, schema in (
        (make_reference.recipe_page(), recipe_schema()),
        (make_reference.target_page(), target_schema()),
    ):
        for keys in (schema["properties"], *(found["properties"] for found in schema["$defs"].values())):
            missing = [key for key in keys if f"| `{key}` |" not in page]
            assert not missing


def test_every_key_says_what_it_is():
    from edgedistill.config import recipe_schema, target_schema

    for schema in (recipe_schema(), target_schema()):
        for name, group in [("the file", schema), *schema["$defs"].items()]:
            assert group.get("description"), name
            silent = [
                key
                for key, found in group["properties"].items()
                if not found.get("description") and "$ref" not in json.dumps(found)
            ]
            assert not silent, f"{name}: give Field(description=...) to {', '.join(silent)}"


def test_the_reference_needs_no_torch():
    import subprocess

    code = (
        "import sys; sys.path[:0] = ['.', 'docs']; import make_reference; make_reference.pages(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Snippets.


def snippets() -> list[tuple[str, int, str]]:
    return [
        (page, number, text) for page in GUIDES for number, (kind, text) in enumerate(fenced(page)) if kind == "yaml"
    ]


@pytest.mark.parametrize(
    ("page", "number", "text"), snippets(), ids=[f"{page}, block {number}" for page, number, _ in snippets()]
)
def test_yaml_of_the_guides_loads(page: str, number: int, text: str, tmp_path: Path):
    """A whole file as it stands; a piece, which begins with `# in a recipe` or `# in a target`, within a file that
    needs nothing else.
    """
    from edgedistill.config import load_recipe, load_target

    piece = re.match(r"# in a (recipe|target)\n", text)
    found: dict[str, Any] = yaml.safe_load(text)
    kind = piece[1] if piece else found["schema"].removeprefix("edgedistill.").partition("/")[0]
    file = tmp_path / "snippet.yaml"
    if piece:
        base = (
            {"schema": "edgedistill.recipe/1", "name": "base"}
            if kind == "recipe"
            else yaml.safe_load(read("targets/laptop-cpu.yaml"))
        )
        file.write_text(yaml.safe_dump(merged(base, found)), encoding="utf-8")
        # Read as it stands too: PyYAML writes numbers otherwise than the page does.
        assert yaml.safe_load(text) == found
    else:
        file.write_text(text, encoding="utf-8")
    (load_recipe if kind == "recipe" else load_target)(file)


def merged(base: Mapping[str, Any], piece: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with another's keys put in, groups of keys likewise."""
    groups = {key for key, value in piece.items() if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)}
    return {**base, **piece, **{key: merged(base[key], piece[key]) for key in groups}}


def test_there_are_snippets_of_both_kinds():
    kinds = [
        kind
        for _, _, text in snippets()
        for kind in KINDS
        if f"edgedistill.{kind}/1" in text or f"# in a {kind}" in text
    ]
    assert set(kinds) == set(KINDS)


@pytest.mark.parametrize("page", GUIDES)
def test_python_of_the_guides_is_python(page: str):
    for kind, text in fenced(page):
        assert kind in ("yaml", "python"), (
            f"a block of {kind or 'no kind'}: indent commands by four, so that they are checked"
        )
        if kind == "python":
            ast.parse(text)


# Links and names.


def headings(page: str) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    found: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#+ (.+)$", plain(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.replace("\\", "").lower()).replace(" ", "-")
        anchors.add(slug if slug not in found else f"{slug}-{found[slug]}")
        found[slug] = found.get(slug, 0) + 1
    return anchors


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str):
    for link in re.findall(r"\]\(([^)\s]+)\)", plain(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in headings(str(target.relative_to(ROOT))), link


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str):
    named = set(re.findall(r"`((?:edgedistill|tests|bench|docs|recipes|targets)/[\w./*-]+)`", read(page)))
    named |= set(re.findall(r"python ((?:bench|docs)/[\w./]+\.py)", read(page)))
    missing = [
        name
        for name in named
        if not list(ROOT.glob(name)) and name not in ("edgedistill/_data/", "edgedistill/quant/iq4_xs.py")
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_tests_and_extras_that_are_named_exist(page: str):
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert all(f"def {name}(" in tests for name in re.findall(r"`(test_\w+)`", read(page)))
    extras = {name for names in re.findall(r"(?:\.|edgedistill)\[([a-z,]+)\]", read(page)) for name in names.split(",")}
    known = read("pyproject.toml").partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert extras <= set(re.findall(r"^(\w+) = \[", known, re.MULTILINE))


def test_every_page_is_within_two_steps_of_the_readme():
    seen, waiting = set(), ["README.md"]
    for _ in range(2):
        links = {
            str((ROOT / page).parent.joinpath(link).resolve().relative_to(ROOT))
            for page in waiting
            for link in re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", plain(page))
            if "://" not in link
        }
        seen, waiting = seen | links, sorted(links - seen)
    assert {page for page in PAGES if page.startswith("docs/")} <= seen


def test_make_targets_that_the_pages_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:^ {4}|`)make ([a-z-]+)", read(page), re.MULTILINE)}
    assert {"demo", "test"} <= named <= targets


EDGES, LEAST = " '\"();:,.", 4  # what may stand around a text, and how long it must be to say anything
# What stands between pieces of a quotation: `...`, a number with its unit, a text in quotes, a path, a colon.
VALUE = r"\.\.\.|\S*[\d_=/]\S*(?: [KMG]i?B)?|(?<!\w)'[^']*'|\S+[.-]\w\S*|:"


def messages_of(page: str) -> list[str]:
    """What a guide's table of troubles quotes of the tool, in the first column: code of three words or more."""
    rows = re.findall(r"^\| (.+?) \| .+ \|$", read(page).partition("## What can go wrong")[2], re.MULTILINE)
    return [
        quoted
        for row in rows
        if "test_" not in row
        for quoted in re.findall(r"`([^`]+)`", row)
        if len(quoted.split()) > 2
    ]


@functools.cache
def texts_of_the_code() -> set[str]:
    """Every text in the package, and the pieces of those with values in them."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "edgedistill").rglob("*.py")]
    constants = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {text for value in constants if isinstance(value, str) and len(text := value.strip(EDGES)) >= LEAST}


def pieces_of(message: str) -> list[str]:
    """What a quotation holds between values and colons: pieces of three words or more, else the longest piece."""
    parts = [part.strip(EDGES) for part in re.split(VALUE, message)]
    return [part for part in parts if len(part.split()) > 2] or [max(parts, key=len)]


def meets(part: str, text: str) -> bool:
    """Whether most of a piece of a quotation can come from a text: one holds the other, or the end of one begins the
    other.
    """
    if part in text:
        return True
    most = len(part) // 2 + 1
    if text in part:
        return len(text) >= most
    lengths = range(most, min(len(part), len(text)))
    return any(part.endswith(text[:n]) or part.startswith(text[-n:]) for n in lengths)


def test_a_quotation_in_other_words_is_noticed():
    right, wrong = (
        pieces_of(f"m.gguf: serve {words}, and this is ONNX")
        for words in ("is for GGUF files", "answers from GGUF files, in llama.cpp")
    )
    assert right == ["serve is for GGUF files, and this is ONNX"]
    known = [any(meets(part, text) for text in texts_of_the_code()) for part in (*right, *wrong)]
    assert known == [True, False, True]


@pytest.mark.parametrize("page", [page for page in GUIDES if "## What can go wrong" in read(page)])
def test_messages_that_are_quoted_are_the_tools(page: str):
    """Most of each piece of a quotation is of a text in the code."""
    texts = texts_of_the_code()
    quoted = {message: pieces_of(message) for message in messages_of(page)}
    assert quoted
    unknown = [part for parts in quoted.values() for part in parts if not any(meets(part, text) for text in texts)]
    assert not unknown


# Tables.


def test_the_table_of_families_is_the_records():
    from edgedistill.families import FAMILIES

    rows = json.loads(read("bench/results/families.json"))["rows"]
    page = read("docs/models.md")
    for family in FAMILIES:
        of_family = [row for row in rows if row["family"] == family]
        found = {(row["format"], row["mix"]): row for row in of_family if "student" not in row}
        assert sum(row["differences"] for row in of_family) == 0
        gguf = found["gguf", "f32"]["max_abs_logit_difference"]
        onnx = max(row["max_abs_logit_difference"] for (kind, _), row in found.items() if kind == "onnx")
        assert re.search(rf"^\| `{family}` \| .+ \| {gguf:.1e} \| {onnx:.1e} \| none \|$", page, re.MULTILINE), family
        assert family.removesuffix("_text") in read("README.md"), family


def test_what_cuts_lose_is_the_record():
    record = json.loads(read("bench/results/which_cut.json"))
    found = {f"{row['share']} {row['cut']}": f"{row['results'][0]['kl']:.2f}" for row in record["rows"]}
    page = read("docs/cut-a-student.md")
    for words, most, half in (
        ("depth, by influence", "depth", "depth"),
        ("depth, contiguous", "depth, contiguous", "depth, contiguous"),
        ("ffn alone", "width, ffn alone", "width, ffn alone"),
        (
            "ffn and key heads in one proportion, by activations",
            "{kind: width, ffn: 1184, kv_heads: 2}",
            "{kind: width, ffn: 832, kv_heads: 1}",
        ),
        (
            "the same, by gradient",
            "{kind: width, ffn: 1184, kv_heads: 2, importance: gradient}",
            "{kind: width, ffn: 832, kv_heads: 1, importance: gradient}",
        ),
        ("ffn, and of key heads two thirds, as `share: 0.5` has it", "", "width"),
        (
            "depth and width",
            "{kind: depth+width, layers: 26, ffn: 1248}",
            "{kind: depth+width, layers: 21, ffn: 1120, kv_heads: 2}",
        ),
    ):
        assert f"| {words} | {found[f'0.75 {most}'] if most else ''} | {found[f'0.5 {half}']} |" in page
    assert record["judge_tokens"] == 1024


def test_the_table_of_students_is_the_records():
    from edgedistill.families import FAMILIES

    rows = [row for row in json.loads(read("bench/results/families.json"))["rows"] if "student" in row]
    page = read("docs/models.md")
    kinds = ("depth", "width", "depth+width", "config", "vocabulary")
    assert {(row["family"], row["student"]) for row in rows} == {
        (family, kind) for family in FAMILIES for kind in kinds
    }

    def largest(found: list[dict[str, Any]]) -> str:
        return f"{max(row['max_abs_logit_difference'] for row in found):.1e}"

    for kind in kinds:
        of_kind = [row for row in rows if row["student"] == kind]
        gguf = [row for row in of_kind if (row["format"], row["mix"]) == ("gguf", "f32")]
        gemma = [row for row in gguf if row["family"] == "gemma3_text"]
        others = [row for row in gguf if row not in gemma]
        onnx = [row for row in of_kind if row["format"] == "onnx"]
        assert sum(row["differences"] for row in of_kind) == 0
        assert f"| `{kind}` | {largest(others)} | {largest(gemma)} | {largest(onnx)} | none |" in page


def test_what_the_page_says_of_the_server_is_the_record():
    record = json.loads(read("bench/results/serve.json"))
    figure, ratio = record["harness"]["acc"], record["at_once"]["ratio"]["median"]
    assert figure["within"]
    page = " ".join(read("docs/embed-in-an-app.md").split())
    assert f"gets {figure['harness']:.0%} of".replace("%", "") in page
    own, low, high = (f"{figure[name]:.0%}".removesuffix("%") for name in ("ours", "low", "high"))
    assert f"own measure gives {own}, with a 95 % interval from {low} to {high}." in page
    assert f"came at {ratio:.1f} times the tokens/s of the same eight" in page
    assert record["at_once"]["requests"] == 8


def test_every_record_says_which_command_made_it():
    for path in (ROOT / "bench" / "results").glob("*.json"):
        command = json.loads(path.read_text(encoding="utf-8")).get("command", "")
        assert command.startswith(("python bench/", "edgedistill ")), path


def test_the_tables_of_measured_numbers_are_the_records():
    from bench.pages import PAGES as WRITTEN
    from bench.pages import filled

    for page in WRITTEN:
        text = page.read_text(encoding="utf-8")
        assert text == filled(text), "run python bench/pages.py"
        assert "<!-- " in text, f"{page} has no table of its own: leave it out of bench/pages.py"


@pytest.mark.parametrize("page", ["docs/method.md", "docs/compare-levels.md"])
def test_the_rule_of_the_recommendation_is_the_one_that_chooses(page: str):
    from edgedistill.report.recommend import RULE

    assert RULE in " ".join(read(page).split())
