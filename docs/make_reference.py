"""docs/reference/: commands, keys of recipes and targets, number formats and mixes, written from the code that they
describe.

Run    python docs/make_reference.py
       A test holds the pages to the code, so run it after a command, a key or a format has changed.

Commands come from Click, keys from the pydantic models' JSON Schema, formats and mixes from their tables, and what a
grid is from the first lines of its module. Nothing here imports torch.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "reference"
WRITTEN = "<!-- Written by python docs/make_reference.py; change the code that it reads, not this page. -->"

COMMANDS = """`edgedistill COMMAND --help` says the same in a terminal. Results go to stdout, progress and messages to
stderr; `--json` prints one JSON object or list in place of text."""
EXIT_CODES = [
    ["0", "it is done"],
    ["1", "the run failed; the same command goes on where it stopped"],
    ["2", "the input is wrong, and nothing ran"],
    ["3", "the plan is sound, but too big for the device or this machine"],
    ["130", "stopped with Ctrl-C; the same command goes on"],
]
RECIPE = """A recipe says what to build: `--recipe NAME`, or `--recipe FILE.yaml`. How to write one:
[guide](../write-a-recipe.md). A key that is left out has its default; a misspelt one is an error. `edgedistill recipes
schema` prints the JSON Schema, for editors that check YAML.

What comes along:"""
TARGET = """A target says what to build for: `--target NAME`, or `--target FILE.yaml`. How to add one:
[guide](../add-a-target.md). Figures carry their unit. `edgedistill targets schema` prints the JSON Schema, for editors
that check YAML.

What comes along:"""
NUMBER_FORMATS = """A number format stores a tensor's rows in blocks that share a scale. Every one in the table is read
and written, bit for bit, and all that are quantized can be trained on. Norms and biases are always `f32`. Adding one:
[guide](../add-a-grid.md).

Bits a weight count scales. An ONNX file has codes of 2, 4 and 8 bits only, so there some formats are wider, with the
same weights. *Scale moves*: whether training can move a block's scale, or chooses codes alone."""
BUILT_IN_MIXES = """A mix says which tensor gets which format. The built-in ones choose as llama.cpp's quantizer does,
tensor by tensor, without an importance matrix; `mxfp4` is ours (llama.cpp has it for experts only). Where a row
doesn't divide into a format's blocks, another one stores it, which `plan` shows. The columns on the right say what
that comes to, in bits a weight over all weights and in tensors of each format: for a model whose rows divide by 256
(the shape of Llama 3.2 1B), and for one whose rows of 576 don't (SmolLM2-135M). In both the embedding is the output
layer too. Computed from the tables, not measured."""

Schema = Mapping[str, Any]
# Keys that stand for another: the schema has both for editors.
SHORT_FORMS = {
    "teacher": "teachers: {teacher: {...}}",
    "distill": "phases: [{...}]",
    "as_is": "kind: same where it is true, kind: depth where it is false",
}


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A Markdown table, the columns in `right` aligned to the right."""
    marks = ["---:" if column in right else "---" for column in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, marks, *rows))


def prose(text: str) -> str:
    """Text as it can stand in a table's cell or a paragraph: nothing in it is markup but what stands between
    backquotes.
    """
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    plain = ((part, re.sub(r"([*<>\[\]]|\b_|_\b)", r"\\\1", part)) for part in parts)
    return "".join(part if part.startswith("`") else escaped for part, escaped in plain).replace("|", "\\|")


def code(text: str) -> str:
    """Text as code that can stand in a table's cell."""
    return f"`{text}`".replace("|", "\\|")


# Commands.


def commands_page() -> str:
    """Every command: what it says of itself, how it is called, its arguments and options, an example."""
    from edgedistill.cli.main import cli

    found = [command_part(command, names) for command, names in walk(cli, ())]
    lines = [f"- [{' '.join(names)}](#{'-'.join(names)})" for _, names in walk(cli, ())]
    intro = COMMANDS + "\n\n" + table(["exit code", "means"], EXIT_CODES)
    return page("Commands", intro, "\n".join(lines), *found)


def walk(group: click.Group, names: tuple[str, ...]) -> Iterator[tuple[click.Command, tuple[str, ...]]]:
    """Every command below a group with the words that call it, in the group's order; a group before its own."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield command, (*names, name)
        if isinstance(command, click.Group):
            yield from walk(command, (*names, name))


def command_part(command: click.Command, names: Sequence[str]) -> str:
    """One command's section."""
    text, example = help_of(command)
    parts = [f"{'#' * (1 + len(names))} {' '.join(names)}", text]
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    options = [param for param in command.params if isinstance(param, click.Option)]
    if not isinstance(command, click.Group):
        required = [f"{param.opts[0]} {value_of(param)}" for param in options if param.required]
        words = ["edgedistill", *names, *(argument_word(param) for param in arguments), *required, "[OPTIONS]"]
        parts.append(f"    {' '.join(words)}")
    if options:
        rows = [[code(spelling(param)), prose(param.help or ""), default_of(param)] for param in options]
        parts.append(table(["option", "what it does", "default"], rows))
    if example:
        parts.append("Example:")
        parts.append("\n".join(f"    {line}" for line in example))
    return "\n\n".join(part for part in parts if part)


def help_of(command: click.Command) -> tuple[str, list[str]]:
    """A command's help without its example, as Markdown, and the example's lines."""
    kept, example = [], []
    for block in (command.help or "").replace("\f", "").split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].strip() == "\b":
            found = [re.sub(r"^\s*(Example: )?", "", line) for line in lines[1:] if line.strip()]
            if "Example: " in block:
                example += found
            else:
                kept.append("\n".join(f"    {line}" for line in found))
        else:
            kept.append(prose(block))
    return "\n\n".join(kept), example


def argument_word(param: click.Argument) -> str:
    """FILE, [FILE] or FILE... as usage lines have it."""
    metavar = param.metavar or (param.name or "").upper()
    if metavar.startswith("["):
        return metavar
    several = "..." if param.nargs != 1 and not metavar.endswith("...") else ""
    return f"{metavar}{several}" if param.required else f"[{metavar}]{several}"


def spelling(param: click.Option) -> str:
    """-o, --output DIR"""
    names = ", ".join(sorted((*param.opts, *param.secondary_opts), key=lambda name: (name.startswith("--"), name)))
    return names if param.is_flag or param.count else f"{names} {value_of(param)}"


def value_of(param: click.Option) -> str:
    """What stands for an option's value."""
    if param.metavar:
        return param.metavar
    if isinstance(param.type, click.Choice):
        return "|".join(map(str, param.type.choices))
    return {"integer": "NUMBER", "integer range": "NUMBER", "float": "NUMBER", "float range": "NUMBER"}.get(
        param.type.name, "TEXT"
    )


def default_of(param: click.Option) -> str:
    """An option's default where it is a value that one could type."""
    if param.required:
        return "required"
    if (
        param.is_flag
        or isinstance(param.default, bool)
        or not isinstance(param.default, (str, int, float))
        or param.default == ""
    ):
        return ""
    return code(str(param.default))


# Keys of recipes and targets.


def recipe_page() -> str:
    """Every key of a recipe."""
    from edgedistill.config import load_recipe, names, recipe_schema

    known = [(name, load_recipe(name)) for name in names("recipes")]
    rows = [[f"[{name}](../../recipes/{name}.yaml)", prose(recipe.summary)] for name, recipe in known]
    intro = RECIPE + "\n\n" + table(["recipe", "what it builds"], rows)
    return page("Keys of a recipe", intro, *sections(recipe_schema()))


def target_page() -> str:
    """Every key of a target."""
    from edgedistill.config import load_target, names, target_schema
    from edgedistill.show import show, show_bytes
    from edgedistill.units import EXAMPLES, QUANTITIES

    rows = []
    for name in names("targets"):
        target = load_target(name)
        limits = target.limits
        decode = "" if limits.decode is None else show(limits.decode, "tokens/s")
        file = "" if limits.file is None else show_bytes(limits.file)
        rows.append(
            [
                f"[{name}](../../targets/{name}.yaml)",
                prose(target.title),
                show_bytes(target.memory.usable),
                file,
                decode,
            ]
        )
    units = [
        [quantity, ", ".join(map(code, allowed)), code(EXAMPLES[quantity])] for quantity, allowed in QUANTITIES.items()
    ]
    known = table(["target", "device", "memory for the model", "largest file", "least decode"], rows)
    intro = f"{TARGET}\n\n{known}\n\nUnits:\n\n{table(['quantity', 'units', 'such as'], units)}"
    return page("Keys of a target", intro, *sections(target_schema()))


def sections(schema: Schema) -> Iterator[str]:
    """A section for the file itself, then one for each group of keys in it."""
    yield section("The file", "", schema, schema["$defs"])
    yield from groups(schema, schema["$defs"], "")


def groups(schema: Schema, defs: Schema, path: str) -> Iterator[str]:
    """The sections of the groups of keys below one."""
    for name, found in schema["properties"].items():
        if name in SHORT_FORMS:
            continue
        inners, suffix = groups_of(found)
        for inner in inners:
            title = place_of(f"{path}{name}{suffix}", inner if len(inners) > 1 else None, defs)
            yield section(title, prose(defs[inner].get("description", "")), defs[inner], defs)
            yield from groups(defs[inner], defs, f"{path}{name}{suffix}.")


def groups_of(found: Schema) -> tuple[list[str], str]:
    """The names of the definitions that a key's value, a list's entries or a mapping's values follow (several where
    they are of one of several kinds), and what its path gets appended.
    """
    for place, suffix in (
        (found, ""),
        (found.get("items", {}), "[]"),
        (found.get("additionalProperties", {}), ".NAME"),
        *((pattern, ".NAME") for pattern in found.get("patternProperties", {}).values()),
        *((option, "") for option in found.get("anyOf", ())),
        *((option.get("items", {}), "[]") for option in found.get("anyOf", ())),
    ):
        if isinstance(place, Mapping):
            options = [option for option in (place, *place.get("oneOf", ())) if "$ref" in option]
            if options:
                return [str(option["$ref"]).rpartition("/")[2] for option in options], suffix
    return [], ""


def place_of(path: str, kind: str | None, defs: Schema) -> str:
    """The title of a group's section: its path, and of several kinds the key that sets this one apart."""
    if kind is None:
        return path
    first, key = next(iter(defs[kind]["properties"].items()))
    return f"{path} with {first}" + (f" {key['const']}" if isinstance(key.get("const"), str) else "")


def section(title: str, text: str, schema: Schema, defs: Schema) -> str:
    """A table of keys."""
    rows = []
    for name, found in schema["properties"].items():
        inners, _ = groups_of(found)
        text_of_key = found.get("description") or (defs[inners[0]].get("description", "") if inners else "")
        default = "required" if name in schema.get("required", ()) else default_value(found, bool(inners))
        path = "" if title == "The file" else f"{title.partition(' with ')[0]}."
        words = (
            f"short for {code(SHORT_FORMS[name])}" if name in SHORT_FORMS else type_words(found, f"{path}{name}", defs)
        )
        rows.append([code(name), words, default, prose(text_of_key)])
    return "\n\n".join(
        part for part in (f"## {title}", text, table(["key", "value", "default", "what it is"], rows)) if part
    )


def default_value(found: Schema, grouped: bool) -> str:
    """A key's default as YAML would have it; nothing for a group of keys, whose keys have their own."""
    if "default" not in found or (grouped and found["default"]):
        return ""
    value = found["default"]
    if found.get("type") == "string" and not isinstance(value, str):  # a figure, which the file gives with its unit
        return code(f"{value} {found['examples'][0].split()[1]}")
    return code(json.dumps(value, ensure_ascii=False))


def type_words(found: Schema, path: str, defs: Schema) -> str:
    """What a key may hold, in words."""
    inners, suffix = groups_of(found)
    if inners:
        titles = [place_of(path + suffix, inner if len(inners) > 1 else None, defs) for inner in inners]
        links = " or ".join(f"[{prose(title)}](#{anchor(title)})" for title in titles)
        words = {"": "keys of", "[]": "list, each with the keys of", ".NAME": "names, each with the keys of"}[suffix]
        nothing = {"type": "null"} in found.get("anyOf", ())
        return f"{words} {links}" + (", or `null`" if nothing else "")
    if "anyOf" in found:
        return ", or ".join(
            "`null`" if option.get("type") == "null" else type_words(option, path, defs) for option in found["anyOf"]
        )
    if "const" in found:
        return code(found["const"] if isinstance(found["const"], str) else json.dumps(found["const"]))
    if "enum" in found:
        return ", ".join(code(str(value)) for value in found["enum"])
    kind = found.get("type")
    if kind == "array":
        return f"list of: {type_words(found['items'], path, defs)}"
    if kind == "object":
        values = next(iter(found.get("patternProperties", {}).values()), found.get("additionalProperties"))
        return f"names with: {type_words(values, path, defs)}" if isinstance(values, Mapping) else "names with values"
    if kind == "boolean":
        return "`true`, `false`"
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + bounds(found)
    if "examples" in found and "pattern" not in found:
        return f"text with a unit, such as {code(found['examples'][0])}"
    if "examples" in found:
        return f"name, such as {code(found['examples'][0])}"
    return "short name" if "pattern" in found else "text"


def bounds(found: Schema) -> str:
    """', above 0, at most 1'"""
    words = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
    return "".join(f", {word} {found[key]:,}" for key, word in words.items() if key in found)


# Number formats and mixes.


def formats_page() -> str:
    """The number formats, and which tensor gets which in the built-in mixes."""
    from edgedistill.formats import FORMATS

    rows = []
    for name, number_format in FORMATS.items():
        what, trained = grid_words(name) if number_format.quantized else ("a float a weight", "")
        bits, onnx = f"{number_format.bits_per_weight:.5g}", f"{number_format.onnx_bits:g}"
        rows.append(
            [code(name), str(number_format.block), str(number_format.block_bytes), bits, onnx, trained, prose(what)]
        )
    heads = ["format", "block", "bytes a block", "bits a weight", "in ONNX", "scale moves", "a block"]
    formats = table(heads, rows, right=(1, 2, 3, 4))
    return page(
        "Number formats and mixes", NUMBER_FORMATS, formats, "## Mixes", BUILT_IN_MIXES, mixes_table(), own_mixes()
    )


def grid_words(name: str) -> tuple[str, str]:
    """What a grid's module says of its blocks in its first sentence, and whether its scale is learned."""
    tree = ast.parse((ROOT / "edgedistill" / "quant" / f"{name}.py").read_text(encoding="utf-8"))
    first = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split()).partition(": ")[2]
    learned = {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id == "LEARNED"
    }
    return first.rstrip("."), "yes" if learned["LEARNED"] else "no"


def mixes_table() -> str:
    """Each built-in mix on two shapes."""
    from edgedistill.facts import ModelShape
    from edgedistill.mixes import MIXES, assign_formats, mix_bytes

    shapes = [
        ModelShape(
            "llama",
            layers=16,
            width=2048,
            heads=32,
            kv_heads=8,
            head_dim=64,
            ffn=8192,
            vocab=128256,
            context=131072,
            tied=True,
            rope_theta=5e5,
            norm_eps=1e-5,
        ),
        ModelShape(
            "llama",
            layers=30,
            width=576,
            heads=9,
            kv_heads=3,
            head_dim=64,
            ffn=1536,
            vocab=49152,
            context=8192,
            tied=True,
            rope_theta=1e5,
            norm_eps=1e-5,
        ),
    ]
    rows = []
    for mix in MIXES:
        cells = [code(mix)]
        for shape in shapes:
            counts: dict[str, int] = {}
            for name, stored in assign_formats(shape, mix).items():
                if not name.endswith("norm.weight"):
                    counts[stored.name] = counts.get(stored.name, 0) + 1
            cells += [
                f"{8 * mix_bytes(shape, mix) / shape.parameters:.2f}",
                ", ".join(f"{n} {name}" for name, n in counts.items()),
            ]
        rows.append(cells)
    heads = ["mix", "rows of 2048: bits", "tensors", "rows of 576: bits", "tensors"]
    return table(heads, rows, right=(1, 3))


def own_mixes() -> str:
    """Mixes that aren't built in."""
    from edgedistill.config.own_mixes import AUTO
    from edgedistill.mixes import CANDIDATES, QUANTIZED_MIXES

    first, choices = QUANTIZED_MIXES[0], ", ".join(map(code, CANDIDATES))
    return (
        f"`{AUTO}` before a quantized mix's name, such as `{AUTO}{first}`, is a mix fitted to that one's "
        "bytes: what each format costs\n"
        "each group of tensors is foretold ([how](../method.md#the-choice-of-grids)), and a knapsack chooses among\n"
        f"{choices}, as far as rows divide.\n"
        "Commands that train take it. Your own, by rules or fitted to any size: "
        "[define_mixes](recipe.md#define_mixesname)."
    )


# The pages.


def anchor(heading: str) -> str:
    """What GitHub makes of a heading: small letters, no punctuation but - and _, dashes for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def page(title: str, *parts: str) -> str:
    """A page with its title and the note that says where it comes from."""
    return "\n\n".join((f"# {title}", WRITTEN, *parts)) + "\n"


def pages() -> dict[Path, str]:
    """Every page of the reference as the code gives it now."""
    made = {"commands": commands_page, "recipe": recipe_page, "target": target_page, "formats": formats_page}
    return {OUT / f"{name}.md": make() for name, make in made.items()}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout's edgedistill, installed or not
    OUT.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
