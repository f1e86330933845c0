"""A hostile model: its name, template, tokens and licence hold script tags, escapes, quotes and paths. The bundle holds
them harmlessly.
"""

import ast
import json
import re
import shutil
import subprocess
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgedistill.bundle.folder import write_bundle
from edgedistill.bundle.recommended import read_chat_defaults, read_recommended
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_tokenizer import from_gguf
from edgedistill.models.tokenizer import save_tokenizer
from edgedistill.results.report import Teaching
from edgedistill.runtimes.chat_defaults import ChatDefaults
from tests.bundle.conftest import pack, unmeasured
from tests.bundle.test_modelfile import commands
from tests.tiny import make_tiny_llama

EVIL = (
    '"""\nSYSTEM evil\n</script><script>x()</script>{{ .X }}`${x}`\\"; import os\x1b]0;x\x07\u202e\x9b$(rm) ??/\n'
    '#include "/etc/passwd"\n*/ //'
)
NAME = "../../" + EVIL


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """The bundle, in a folder of its own."""
    root = tmp_path_factory.mktemp("hostile")
    model = make_tiny_llama(root / "model", layers=1, seed=2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        found = (model / name).read_text(encoding="utf-8")
        (model / name).write_text(found.replace('"<|im_end|>"', json.dumps(EVIL)), encoding="utf-8")
    template = (
        (model / "chat_template.jinja")
        .read_text(encoding="utf-8")
        .replace("'<|im_end|>'", json.dumps(EVIL, ensure_ascii=False))
    )
    (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    report = unmeasured()
    report = replace(report, teacher=replace(report.teacher, name=NAME, source=NAME), teach=Teaching(system=EVIL))
    packed = pack(model, root / "packed")
    (root / "out").mkdir()
    return write_bundle(packed, report, root / "out" / "bundle", NAME, license_text=EVIL, model=model)


# What the model's makers wrote lies there as data, as JSON, Jinja or the weights' own file; all else is ours.
DATA = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", ".gguf", ".onnx")


def test_the_files_stay_inside_under_safe_names(hostile):
    assert [path.name for path in hostile.parent.iterdir()] == ["bundle"]
    for path in hostile.rglob("*"):
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", path.name), path
        assert not path.is_symlink()
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=hostile, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count(": OK") == sum(path.is_file() for path in hostile.rglob("*")) - 1


def test_no_file_of_ours_holds_a_control_character(hostile):
    for path in hostile.rglob("*"):
        if path.is_file() and not path.name.endswith(DATA):
            text = path.read_text(encoding="utf-8")
            assert not {
                char for char in text if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")
            }, path
            # The card and the licence quote it, escaped (test_bundle.py); these hold the template's texts in
            # strings.
            assert "SYSTEM evil" not in text or path.name in (
                "README.md",
                "MODEL_CARD.md",
                "LICENSE",
                "main.cpp",
                "Modelfile",
                "bundle.json",
            ), path


def test_the_modelfile_has_no_command_of_the_model_s(hostile):
    found = commands((hostile / "Modelfile").read_text(encoding="utf-8"))
    assert [name for name, _ in found] == ["FROM", *["PARAMETER"] * 8, "TEMPLATE"]
    assert found[0][1] == f"./{next(hostile.glob('*.gguf')).name}"
    assert found[-2][1] == 'stop "<|endoftext|>"'  # the hostile one fits between no quotes


def test_python_and_json_and_html_parse_to_what_they_are(hostile):
    for path in (hostile / "examples").rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"))
    for path in hostile.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    scripts = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag == "script" or any(name.startswith("on") for name, _ in attributes):
                scripts.append((tag, dict(attributes)))

    Reader().feed((hostile / "examples" / "browser" / "index.html").read_text(encoding="utf-8"))
    assert scripts == [("script", {"type": "module", "src": "chat.mjs"})]


def test_javascript_parses(hostile):
    if shutil.which("node") is None:
        pytest.skip("needs Node.js")
    programs = sorted((hostile / "examples").rglob("*.mjs"))
    assert len(programs) == 5
    for program in programs:
        done = subprocess.run(["node", "--check", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_c_compiler_sees_the_prompt_as_two_strings(hostile, tmp_path):
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    source = (hostile / "examples" / "cpp" / "main.cpp").read_text(encoding="utf-8")
    literals = [line for line in source.splitlines() if line.startswith("static const char")]
    assert len(literals) == 2
    assert [line for line in source.splitlines() if line.startswith("#")] == [
        "#include <algorithm>",
        "#include <cstdio>",
        "#include <string>",
        "#include <vector>",
        '#include "llama.h"',
    ]
    program = "#include <cstdio>\n#include <string>\n" + "\n".join(literals)
    program += "\nint main() { fwrite(BEHIND, 1, sizeof BEHIND - 1, stdout); }\n"
    (tmp_path / "a.cpp").write_text(program)
    subprocess.run([compiler, "-trigraphs", "-w", "-o", tmp_path / "a", tmp_path / "a.cpp"], check=True)
    said = subprocess.run([tmp_path / "a"], capture_output=True, check=True).stdout
    assert said.decode() == EVIL + "\n<|im_start|>assistant\n"


def test_a_gguf_s_names_of_templates_lead_nowhere(tmp_path):
    """Each named template becomes a file: one called ../../x must not."""
    import gguf

    from tests.bundle.conftest import tiny_gguf

    (tmp_path / "deep" / "er").mkdir(parents=True)
    source = tmp_path / "deep" / "tiny.gguf"
    source.write_bytes(tiny_gguf(templates={"../../../escaped": "x", "tool_use": "y"}))
    assert gguf.GGUFReader(source).get_field("tokenizer.chat_template.../../../escaped")
    assert from_gguf(read_header(source)).named_templates == (("_________escaped", "x"), ("tool_use", "y"))
    save_tokenizer(source, tmp_path / "deep" / "er" / "out")
    assert sorted(path.name for path in tmp_path.rglob("*.jinja")) == [
        "_________escaped.jinja",
        "chat_template.jinja",
        "tool_use.jinja",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_a_bundle_file_nested_without_end_says_nothing(tmp_path):
    (tmp_path / "bundle.json").write_text("[" * 200_000, encoding="utf-8")
    assert read_chat_defaults(tmp_path) == ChatDefaults()
    assert read_recommended(tmp_path).gguf is None
