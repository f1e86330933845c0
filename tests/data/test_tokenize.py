"""Of a conversation the answers count; its ids are those that the model is given when it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from edgedistill.data.frame import RefusedError, make_frame
from edgedistill.data.tokenize import tokenize
from edgedistill.data.trace import Trace, Turn
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.templates import render
from edgedistill.templates.render import LimitError

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
CHAT = (
    Turn("system", "Be kind."),
    Turn("user", "How many cats?"),
    Turn("assistant", "Three cats."),
    Turn("user", "And dogs?"),
    Turn("assistant", "Two dogs."),
)


def counted(example, tokenizer) -> list[str]:
    """The counted tokens' texts, a stretch of neighbours each."""
    stretches: list[list[int]] = []
    last = None
    for position, label in zip(example.positions.tolist(), example.labels.tolist(), strict=True):
        if last is None or position != last + 1:
            stretches.append([])
        stretches[-1].append(label)
        last = position
    return [tokenizer.decode(stretch) for stretch in stretches]


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path):
    return load_tokenizer(tiny_llama)


def test_the_ids_are_transformers_and_the_answers_count_with_their_ends(tokenizer):
    frame = make_frame(tokenizer, "tiny")
    example = tokenize(Trace("t", "p", CHAT), tokenizer, frame)
    messages = [{"role": turn.role, "content": turn.text} for turn in CHAT]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    expected = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    ids = example.tokens.tolist()
    assert ids == expected[: len(ids)]
    assert tokenizer.decode(expected[len(ids) :]).strip() == ""  # the line break behind the last end of turn
    assert counted(example, tokenizer) == ["Three cats.<|im_end|>", "Two dogs.<|im_end|>"]
    assert example.trace_id == "t"


def test_a_turns_weight_is_that_of_its_tokens(tokenizer):
    turns = (*CHAT[:2], Turn("assistant", "Three cats.", train=0.0), CHAT[3], Turn("assistant", "Two dogs.", train=0.5))
    example = tokenize(Trace("t", "p", turns), tokenizer, make_frame(tokenizer, "tiny"))
    assert counted(example, tokenizer) == ["Two dogs.<|im_end|>"]
    assert set(example.weights.tolist()) == {0.5}
    with pytest.raises(ValueError, match="trace t: no answer counts"):
        tokenize(Trace("t", "p", CHAT[:2]), tokenizer, make_frame(tokenizer, "tiny"))


def test_plain_text_counts_as_its_turns_say(tokenizer):
    turns = (Turn("text", "Once upon", train=0.0), Turn("text", " a time"))
    example = tokenize(Trace("t", "p", turns), tokenizer, None)
    assert tokenizer.decode(example.tokens).endswith("Once upon a time")
    assert counted(example, tokenizer) == [" a time"]


def merging(template: str) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes and some merges that cross the template's borders."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ċ", "W"), (":", "Y"), ("h", "y"), ("Ċ", "a")]
    words = [*alphabet, *("".join(merge) for merge in merges), "<end>"]
    bare = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, merges))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<end>")
    found.chat_template = template
    return found


MERGED = (
    "{% for m in messages %}{% if m.role == 'user' %}user\n{{ m.content }}\nbot:{% else %}{{ m.content }}<end>\n"
    "{% endif %}{% endfor %}"
)


def test_an_opening_that_a_tokenizer_merges_with_the_question_ends_before_it():
    tokenizer = merging(MERGED)
    frame = make_frame(tokenizer, "merging")
    assert tokenizer.decode(list(frame.opening)) == "user"
    assert frame.begun == "\n"
    for question in ("Why?", "all?", "x"):
        assert frame.prompt([Turn("user", question)])[: len(frame.opening)] == list(frame.opening)
    whole = frame.prompt([Turn("user", "Why?")])
    end = frame.end_ids[0]
    written = [*whole[len(frame.opening) : -len(tokenizer("\nbot:")["input_ids"])], end]
    assert frame.question(written) == "Why?"
    assert frame.question(tokenizer(" something else")["input_ids"]) == ""


def test_an_answer_never_changes_the_ids_of_its_prompt():
    tokenizer = merging(MERGED)
    frame = make_frame(tokenizer, "merging")
    turns = [Turn("user", "Why?")]
    prompt = frame.prompt(turns)
    joined = tokenizer(tokenizer.decode(prompt) + "Yes")["input_ids"]
    assert joined[: len(prompt)] != prompt, "the tokenizer merges over this border"
    example = tokenize(Trace("t", "p", (*turns, Turn("assistant", "Yes"))), tokenizer, frame)
    assert example.tokens.tolist()[: len(prompt)] == prompt
    assert counted(example, tokenizer) == ["Yes<end>"]
    both = (*turns, Turn("assistant", "Yes"), *turns, Turn("assistant", "No"))
    example = tokenize(Trace("t", "p", both), tokenizer, frame)
    # In the later prompt the first answer stands merged, as the model never writes it: it is read and doesn't count.
    assert counted(example, tokenizer) == ["No<end>"]
    assert example.tokens.tolist()[: -len(tokenizer("No<end>")["input_ids"])] == frame.prompt(both[:3])


@contextmanager
def led_by(tokenizer, text: str) -> Iterator[None]:
    """The tokenizer's template with a text before it, for a while."""
    template = tokenizer.chat_template
    tokenizer.chat_template = text + template
    try:
        yield
    finally:
        tokenizer.chat_template = template


def test_a_conversation_that_the_template_refuses_is_said_so(tokenizer):
    frame = make_frame(tokenizer, "tiny")
    with led_by(tokenizer, "{{ raise_exception('no system here') if messages[0].role == 'system' }}"):
        assert not frame.shows_system()
        with pytest.raises(RefusedError, match="refuses this conversation: no system here"):
            frame.prompt(CHAT[:2])
    assert frame.shows_system()


def test_a_template_that_loops_at_a_system_message_is_not_taken_for_one_without_a_place_for_it(tokenizer, monkeypatch):
    monkeypatch.setattr(render, "DEADLINE_S", 2.0)
    loop = "{% if messages[0].role == 'system' %}" + LOOP + "{% endif %}"
    with led_by(tokenizer, loop), pytest.raises(LimitError, match="takes more than"):
        make_frame(tokenizer, "tiny").shows_system()


def test_a_template_that_loops_at_long_conversations_still_frames_a_question(tokenizer, monkeypatch):
    monkeypatch.setattr(render, "DEADLINE_S", 2.0)
    with led_by(tokenizer, "{% if messages | length > 2 %}" + LOOP + "{% endif %}"):
        frame = make_frame(tokenizer, "tiny")
        assert frame.end_ids == (tokenizer.eos_token_id,)
        assert frame.prompt(CHAT[1:2])
        with pytest.raises(LimitError, match="takes more than"):
            frame.prompt((*CHAT[1:3], *CHAT[3:4]))
