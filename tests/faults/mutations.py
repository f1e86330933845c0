"""Inputs with one part changed: JSON and YAML by their nodes, GGUF and safetensors by header and bytes, text by bytes.

Whatever is read, a command ends in time, without a traceback, with a sentence where it refuses.
"""

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.faults.counts import Counts
from tests.faults.forked import Outcome, run
from tests.faults.material import E2E, Material

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    1e308,
    float("nan"),
    0.5,
    "",
    "x" * 5000,
    "\x1b]52;c;QQ==\x07",
    "../../etc",
    "\ud800",
    [],
    [[]],
    {},
    {"a": 1},
)
NUMBERS = (0, 1, 2**16, 2**31 - 1, 2**32, 2**62, 2**64 - 1)
TARGET = E2E.parents[1] / "targets" / "laptop-cpu.yaml"


def inject(material: Material, number: int, rng: random.Random) -> Counts:
    """So many changed inputs, the kinds and their commands in turn."""
    counts = Counts("mutations of inputs")
    place = material.root / "mutated"
    for index in range(number):
        kind = KINDS[index % len(KINDS)]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            what, done = kind(material, place, rng)
        except RecursionError as error:  # of the mutation, not of the command
            what, done = str(error), None
        if done is not None:
            counts.add(f"{kind.__name__}, {what}", done.trouble((0, 1, 2, 3) if "chat" in what else (0, 2, 3)))
    shutil.rmtree(place, ignore_errors=True)
    return counts


def change_node(value: Any, rng: random.Random) -> Any:
    """The value with one node, anywhere in it, replaced by something odd or removed."""
    nodes: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in list(keys)[:200]:
            nodes.append((node, key))
            walk(node[key])

    walk(value)
    if not nodes:
        return rng.choice(ODD)
    parent, key = rng.choice(nodes)
    if rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = rng.choice(ODD)
    return value


def change_bytes(content: bytes, rng: random.Random, within: int | None = None) -> bytes:
    """The content with some bits flipped, a number replaced, or cut; `within` its first so many bytes."""
    data, end = bytearray(content), min(len(content), within or len(content))
    how = rng.randrange(4)
    if how == 0:
        for _ in range(rng.choice((1, 1, 8, 64))):
            data[rng.randrange(end)] ^= 1 << rng.randrange(8)
    elif how == 1 and end > 8:
        at = rng.randrange(end - 8)
        data[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
    elif how == 2:
        del data[rng.randrange(end) :]
    else:
        at = rng.randrange(end)
        data[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
    return bytes(data)


def model_words(model: Path, rng: random.Random, place: Path) -> tuple[str, list[object], str]:
    """A command that reads a model, its words, and what is typed."""
    plan = ["plan", model, "--target", "laptop-cpu", "--recipe", "tiny"]
    export = ["export", model, "-m", "q4_0", "-o", place / "out"]
    bench = ["bench", model, "--prefill", "8", "--decode", "2", "--repetitions", "1", "--threads", "1"]
    chat = ["chat", model, "--threads", "1", "--max-tokens", "4", "--context", "128"]
    choices = {"plan": (plan, ""), "export": (export, "")}
    if model.suffix == ".gguf":
        choices |= {"bench": (bench, ""), "chat": (chat, "Hi\n")}
    name = rng.choice(list(choices))
    return name, *choices[name]


def gguf_files(material: Material, place: Path, rng: random.Random) -> tuple[str, Outcome]:
    """A GGUF file, mostly its header."""
    model = place / "m.gguf"
    model.write_bytes(change_bytes(material.gguf.read_bytes(), rng, rng.choice((64, 2000, 30000, None))))
    name, words, typed = model_words(model, rng, place)
    return name, run(words, typed)


def json_of_models(material: Material, place: Path, rng: random.Random) -> tuple[str, Outcome]:
    """A JSON file of a model folder."""
    model = Path(shutil.copytree(material.model, place / "model"))
    file = rng.choice(sorted(model.glob("*.json")))
    if rng.random() < 0.7:
        file.write_text(json.dumps(change_node(json.loads(file.read_text()), rng)))
    else:
        file.write_bytes(change_bytes(file.read_bytes(), rng))
    name, words, typed = model_words(model, rng, place)
    return f"{name} with {file.name}", run(words, typed)


def safetensors_files(material: Material, place: Path, rng: random.Random) -> tuple[str, Outcome]:
    """The weights of a model folder: the JSON of the header, or bytes."""
    model = Path(shutil.copytree(material.model, place / "model"))
    file = model / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if rng.random() < 0.5:
        header = json.dumps(change_node(json.loads(content[8 : 8 + length]), rng)).encode()
        content = len(header).to_bytes(8, "little") + header + content[8 + length :]
    else:
        content = change_bytes(content, rng, 8 + length)
    file.write_bytes(content)
    return "export", run(["export", model, "-m", "q4_0", "-o", place / "out"])


def templates(material: Material, place: Path, rng: random.Random) -> tuple[str, Outcome]:
    """A chat template, by bytes."""
    model = Path(shutil.copytree(material.model, place / "model"))
    file = model / "chat_template.jinja"
    file.write_bytes(change_bytes(file.read_bytes(), rng))
    name, words, typed = model_words(model, rng, place)
    return f"{name} with a template", run(words, typed)


def recipes(material: Material, place: Path, rng: random.Random) -> tuple[str, Outcome]:
    """A recipe."""
    file = _yaml(E2E / "recipe.yaml", place / "recipe.yaml", rng)
    return "plan", run(["plan", material.model, "--target", "laptop-cpu", "--recipe", file])


def targets(material: Material, place: Path, rng: random.Random) -> tuple[str, Outcome]:
    """A device."""
    file = _yaml(TARGET, place / "target.yaml", rng)
    return "plan", run(["plan", material.model, "--target", file, "--recipe", "tiny"])


def prompts(material: Material, place: Path, rng: random.Random) -> tuple[str, Outcome]:
    """A file of prompts."""
    file = place / rng.choice(("p.jsonl", "p.json", "p.csv", "p.txt"))
    rows = [{"prompt": f"What is {number}?"} for number in range(20)]
    changed = change_node(rows, rng) if rng.random() < 0.7 else rows
    text = json.dumps(changed) if file.suffix == ".json" else "\n".join(map(json.dumps, changed))
    content = text.encode() if rng.random() < 0.5 else change_bytes(text.encode(), rng)
    file.write_bytes(content)
    words = ["plan", material.model, "--target", "laptop-cpu", "--recipe", E2E / "recipe.yaml", "--prompts", file]
    return f"plan with {file.name}", run(words)


def tasks(material: Material, place: Path, rng: random.Random) -> tuple[str, Outcome]:
    """A task's rows."""
    file = place / rng.choice(("t.jsonl", "t.json", "t.csv"))
    answers = rng.choice((["yes", "no"], [{"a": 1}, {"a": [2], "b": {"c": "d"}}]))
    rows = [{"prompt": f"What is {number}?", "answer": answers[number % 2]} for number in range(40)]
    changed = change_node(rows, rng) if rng.random() < 0.7 else rows
    text = json.dumps(changed) if file.suffix == ".json" else "\n".join(map(json.dumps, changed))
    if file.suffix == ".csv":
        text = "prompt,answer\n" + "\n".join(f"what is {number},{'ab'[number % 2]}" for number in range(40))
    content = text.encode() if rng.random() < 0.5 else change_bytes(text.encode(), rng)
    file.write_bytes(content)
    words = ["plan", material.model, "--target", "laptop-cpu", "--recipe", E2E / "recipe.yaml", "--data", file]
    return f"plan with {file.name}", run(words)


def run_json(material: Material, place: Path, rng: random.Random) -> tuple[str, Outcome]:
    """run.json of a finished run."""
    (place / "run").mkdir()
    content = json.loads((material.run / "run.json").read_text())
    (place / "run" / "run.json").write_text(json.dumps(change_node(content, rng)))
    return "runs show", run(["runs", "show", place / "run"])


KINDS: tuple[Callable[[Material, Path, random.Random], tuple[str, Outcome]], ...] = (
    gguf_files,
    json_of_models,
    safetensors_files,
    templates,
    recipes,
    targets,
    prompts,
    tasks,
    run_json,
)


def _yaml(source: Path, file: Path, rng: random.Random) -> Path:
    text = source.read_text(encoding="utf-8")
    if rng.random() < 0.7:
        changed = yaml.safe_dump(change_node(yaml.safe_load(text), rng), allow_unicode=False).encode()
    else:
        changed = change_bytes(text.encode(), rng)
    file.write_bytes(changed)
    return file
