"""A chat template that would stop a build at its end stops it before its beginning."""

import shutil
from pathlib import Path

import pytest

from edgedistill.errors import InputError
from edgedistill.pipeline.template_trial import try_template
from edgedistill.templates import render as template_module

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
AFTER_TWO = "{% if messages | length > 2 %}" + LOOP + "{% endif %}"
NEEDS_SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('a system message first') }}{% endif %}"
ALTERNATE = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def prepend(folder: Path, text: str) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(text + file.read_text())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LOOP, "model: its chat template takes more than"),
        (NEEDS_SYSTEM, "model: its chat template refuses this conversation: a system message first"),
        ("{{ today() }}", "model: its chat template refuses this conversation: 'today' is undefined"),
    ],
)
def test_what_a_run_would_fail_at_is_found_before(text: str, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(template_module, "DEADLINE_S", 2.0)
    prepend(folder, text)
    with pytest.raises(InputError, match=words):
        try_template(folder, "model")


def test_what_a_run_can_do_without_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(template_module, "DEADLINE_S", 2.0)
    assert try_template(folder, "model") == ()
    prepend(folder, AFTER_TWO)
    (note,) = try_template(folder, "model")
    assert "for a conversation of several messages: the Modelfile and the examples go without" in note


def test_a_template_may_refuse_a_system_message(folder: Path):
    prepend(folder, ALTERNATE)
    try_template(folder, "model")


def test_a_prompt_that_no_file_could_answer_is_refused(folder: Path):
    try_template(folder, "model", ("What now?",), 64)
    with pytest.raises(
        InputError, match=r"model: a prompt of measure\.prompts has \d+ tokens; it must have fewer than 64"
    ):
        try_template(folder, "model", ("What now?" * 40,), 64)
