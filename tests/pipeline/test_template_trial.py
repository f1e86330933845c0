"""A chat template that would stop a build at its end stops it before its beginning."""

import re
import shutil
from pathlib import Path

import pytest

from edgedistill.config.conversation import Message, Prompt
from edgedistill.errors import InputError
from edgedistill.pipeline.template_trial import Conversations, try_template
from edgedistill.templates import render as template_module

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
AFTER_TWO = "{% if messages | length > 2 %}" + LOOP + "{% endif %}"
AT_SYSTEM = "{% if messages[0].role == 'system' %}" + LOOP + "{% endif %}"
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
    assert try_template(folder, "model").notes == ()
    prepend(folder, AFTER_TWO)
    (note,) = try_template(folder, "model").notes
    assert "for a conversation of several messages: the Modelfile and the examples go without" in note


def test_a_template_may_refuse_a_system_message(folder: Path):
    prepend(folder, ALTERNATE)
    try_template(folder, "model")


def test_a_prompt_that_no_file_could_answer_is_refused(folder: Path):
    try_template(folder, "model", Conversations(("What now?",), 64))
    with pytest.raises(
        InputError, match=r"model: a prompt of measure\.prompts has \d+ tokens; it must have fewer than 64"
    ):
        try_template(folder, "model", Conversations(("What now?" * 40,), 64))


def asked(*prompts: Prompt, samples: tuple[str, ...] = (), longest: int = 608) -> Conversations:
    return Conversations(samples, 64, prompts, "asked.jsonl", longest)


def prompt(*turns: str, system: str | None = None) -> Prompt:
    led = () if system is None else (Message("system", system),)
    roles = ("user", "assistant")
    return Prompt((*led, *(Message(roles[number % 2], text) for number, text in enumerate(turns))))


def test_a_prompt_of_measure_is_tried_behind_the_system_message_that_all_chats_have(folder: Path):
    taught = [prompt(question, system="You know the days of the week. " * 3) for question in ("Why?", "When?")]
    trial = try_template(folder, "model", asked(*taught))
    assert trial.system == taught[0].system
    try_template(folder, "model", asked(prompt("Why?"), samples=("What now?" * 3,)))
    with pytest.raises(InputError, match=r"has \d+ tokens behind the system message of asked.jsonl; .* fewer than 64"):
        try_template(folder, "model", asked(*taught, samples=("What now?" * 3,)))


def test_a_template_that_loops_at_a_system_message_is_refused_where_the_prompts_have_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(template_module, "DEADLINE_S", 2.0)
    prepend(folder, AT_SYSTEM)
    (note,) = try_template(folder, "model", asked(prompt("Why?"))).notes
    assert "for a question behind a system message: the Modelfile and" in note
    with pytest.raises(InputError, match="for a system message, and 1 prompts of asked.jsonl begin with one; repair"):
        try_template(folder, "model", asked(prompt("Why?"), prompt("When?", system="Be brief.")))


def test_a_template_that_loops_at_the_prompts_own_turns_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(template_module, "DEADLINE_S", 2.0)
    prepend(folder, AFTER_TWO)
    with pytest.raises(InputError, match="for a prompt of asked.jsonl, a conversation of 3 messages; repair"):
        try_template(folder, "model", asked(prompt("Why?"), prompt("Why?", "So.", "Why so?")))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (ALTERNATE, "the chat template refuses one"),
        ("{% set messages = messages | rejectattr('role', 'eq', 'system') | list %}", "the chat template has no place"),
    ],
)
def test_a_system_message_that_will_not_be_used_is_said_before(text: str, why: str, folder: Path):
    prepend(folder, text)
    trial = try_template(folder, "model", asked(prompt("Why?", system="Be brief. " * 40), samples=("Why?",)))
    (note,) = trial.notes
    assert note.startswith(f"asked.jsonl: not used: the system's message, in 1 rows; {why}")
    assert trial.system is None


def test_prompts_that_would_not_be_asked_are_refused_with_the_key_to_raise(folder: Path):
    long = [prompt(question, system="Be brief. " * 300) for question in ("Why?", "When?")]
    with pytest.raises(InputError, match="the shortest prompt of asked.jsonl has") as error:
        try_template(folder, "model", asked(*long))
    count, of_system, least = map(
        int, re.findall(r"has (\d+) tokens .* (\d+) of them .* to at least (\d+) ", str(error.value))[0]
    )
    assert 608 < of_system < count == least + 512
    assert "or shorten the system message" in str(error.value)
    assert try_template(folder, "model", asked(*long, longest=count)).system == long[0].system
