"""The chat command at a real terminal, on tiny models in llama.cpp."""

import re
import time

import pytest
from safetensors.torch import load_file, save_file

from tests.cli.terminal import Terminal
from tests.runtimes.conftest import write_gguf
from tests.tiny import ADJECTIVES, NOUNS, VERBS, make_tiny_llama

CURSOR = re.compile(r"\x1b\[\?2004[hl]")  # readline asks the terminal to mark what is pasted
WORDS = {"The", "the", *ADJECTIVES, *NOUNS, *VERBS}
DIM = re.compile(r"\x1b\[(2|0)m")


@pytest.fixture(scope="module")
def file(talking_llama, tmp_path_factory):
    """A tiny model that writes sentences."""
    return write_gguf(talking_llama, tmp_path_factory.mktemp("talking") / "talking.gguf")


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A model of random weights that never comes to an end, and takes seconds not to.

    The tokens that end an answer have logits of 0, among 512 whose logits are spread far enough to make them one in
    tens of thousands.
    """
    folder = tmp_path_factory.mktemp("endless")
    model = make_tiny_llama(folder / "hf", layers=6, width=256, ffn=512, context=8192)
    weights = load_file(model / "model.safetensors")
    table = weights["model.embed_tokens.weight"] * 8
    table[:3] = 0
    save_file(weights | {"model.embed_tokens.weight": table}, model / "model.safetensors", metadata={"format": "pt"})
    return write_gguf(model, folder / "endless.gguf", eos=0)


def test_a_conversation(file):
    with Terminal("chat", file, "--threads", "1", "--temperature", "0") as terminal:
        assert "talking.gguf in llama-cpp-python" in terminal.wait_for("> ")
        terminal.type("Hello there")
        first = terminal.wait_for("tokens/s, first after")
        assert re.search(r"Hello there\n.*\n?The \w+", CURSOR.sub("", first))
        terminal.wait_for("> ")
        terminal.type("/hlp")
        assert "/hlp is no command. Did you mean '/help'?" in terminal.wait_for("> ")
        terminal.type("/help")
        assert "/reset  forget the conversation" in terminal.wait_for("> ")
        terminal.type('"""The old')
        terminal.wait_for(". ")
        interrupt(terminal, "fox")  # gives the block up
        terminal.wait_for("> ")
        terminal.type("/reset")
        assert "The conversation is forgotten." in terminal.wait_for("> ")
        terminal.type("Hello there")
        again = terminal.wait_for("tokens/s, first after")
        assert answer_of(again) == answer_of(first)  # nothing of the block, nothing of before
        terminal.wait_for("> ")
        terminal.type("/quit")
        assert terminal.end() == 0


def interrupt(terminal, typed):
    """Press Ctrl-C once the prompt has shown what was typed.

    Python's input() shows its prompt a moment before it listens: a signal within that moment is noticed only at the
    next key.
    """
    terminal.send(typed)
    terminal.wait_for(typed)
    time.sleep(0.2)
    terminal.send("\x03")


def answer_of(shown):
    """The line of figures' answer: what comes after the question's line."""
    return CURSOR.sub("", DIM.sub("", shown)).partition("Hello there\n")[2].rpartition("[")[0]


def test_ctrl_c_stops_an_answer_and_at_the_prompt_it_leaves_when_pressed_twice(endless):
    with Terminal("chat", endless, "--threads", "1", "--context", "8192", "--max-tokens", "8000") as terminal:
        terminal.wait_for("> ")
        terminal.type("Hello")
        terminal.wait_for("Hello\n")
        while len(terminal.shown) < 1000:
            terminal.wait_for("\n")
        terminal.send("\x03")
        assert "; stopped]" in terminal.wait_for("; stopped]", 10)
        terminal.wait_for("> ")
        interrupt(terminal, "half a line")
        terminal.wait_for("Ctrl-C again, Ctrl-D or /quit leaves.")
        terminal.wait_for("> ")
        interrupt(terminal, "x")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.shown


@pytest.mark.parametrize("variables", [{"TERM": "xterm"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_hostile_bytes_do_nothing(endless, variables):
    """At this temperature the model writes any of its 512 tokens: 32 control bytes, and bytes that make no
    character.
    """
    wild = ("--threads", "1", "--temperature", "50", "--top-p", "1", "--max-tokens", "400")
    with Terminal("chat", endless, *wild, columns=60, **variables) as terminal:
        terminal.wait_for("> ")
        terminal.type("Go")
        shown = terminal.wait_for("tokens/s, first after")
        terminal.wait_for("> ")
        terminal.send("\x04")
        assert terminal.end() == 0
    assert re.search("[␀-␡]", shown)
    assert "\ufffd" in shown
    plain = CURSOR.sub("", terminal.shown)
    assert bool(DIM.search(plain)) == (variables == {"TERM": "xterm"})
    assert not re.search(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f]", DIM.sub("", plain))


def test_words_stay_whole_on_a_narrow_terminal(file):
    with Terminal("chat", file, "--threads", "1", "--temperature", "0", columns=24) as terminal:
        terminal.wait_for("> ")
        terminal.type("Hello there")
        shown = answer_of(terminal.wait_for("first"))
    lines = shown.split("[")[0].strip().splitlines()
    assert len(lines) > 1
    assert all(len(line) <= 24 for line in lines)
    assert {word.strip(".") for word in shown.split()} <= WORDS


def test_answers_in_a_file_have_no_prompt_among_them(file, tmp_path):
    with (
        (tmp_path / "answers").open("wb") as out,
        Terminal("chat", file, "--temperature", "0", stdout=out.fileno()) as terminal,
    ):
        for question in ("Hello there", "Hello there"):
            terminal.wait_for("> ")
            terminal.type(question)
        terminal.wait_for("> ")
        terminal.send("\x04")
        assert terminal.end() == 0
    lines = (tmp_path / "answers").read_text().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("The ") for line in lines)


def test_a_question_too_long_is_an_error_and_not_the_end(file):
    with Terminal("chat", file, "--threads", "1", "--temperature", "0") as terminal:
        terminal.wait_for("> ")
        terminal.type("word " * 300)
        terminal.wait_for("Error: talking.gguf: the conversation has")
        terminal.wait_for("> ")
        terminal.type("Hello there")
        terminal.wait_for("tokens/s, first after")
