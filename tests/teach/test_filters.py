"""What is kept of a teacher's texts, on texts whose faults are plain."""

import pytest

from edgedistill.data.frame import make_frame
from edgedistill.data.trace import USER, Turn, normalized
from edgedistill.errors import InputError
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.teach.filters import CONTROL, CUT_OFF, EMPTY, LOOP, is_loop, why_dropped

PLAIN = list(range(100))


@pytest.mark.parametrize(
    ("text", "tokens", "finish", "why"),
    [
        ("A good answer.", PLAIN, "stop", None),
        ("", [2], "stop", EMPTY),
        ("  \n", [5, 2], "stop", EMPTY),
        ("It goes on and", PLAIN, "length", CUT_OFF),
        ("no no no no", [7] * 40, "length", LOOP),
        ("no no no no", [7] * 40, "stop", LOOP),
        ("bad \x1b[31m colour", PLAIN, "stop", CONTROL),
        ("half a char \ufffd", PLAIN, "stop", CONTROL),
        ("tabs\tand\nlines are fine", PLAIN, "stop", None),
    ],
)
def test_reasons(text, tokens, finish, why):
    assert why_dropped(text, tokens, finish) == why


def test_loops_are_seen_and_lists_are_not():
    assert is_loop([1, 2, 3] * 6)
    assert is_loop(PLAIN + [4, 5, 6, 7] * 4)
    assert is_loop((PLAIN[:9] + [50, 51, 52, 53, 54, 55, 56]) * 6)
    numbered = [token for item in range(12) for token in (200 + item, 10, 11, 300 + item, 400 + item, 500 + item, 12)]
    assert not is_loop(numbered)
    assert not is_loop([1, 1, 1, 1])
    assert not is_loop([])


def test_duplicates_differ_only_in_case_and_signs():
    assert normalized("The  Cat, sat!") == normalized("the cat sat") != normalized("the cat sits")


def test_the_frame_is_what_the_template_says(tiny_llama):
    tokenizer = load_tokenizer(tiny_llama)
    frame = make_frame(tokenizer, "tiny")
    assert tokenizer.decode(list(frame.opening)) == "<|im_start|>user\n"
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert tokenizer.decode(frame.prompt([Turn(USER, "Hi")])) == rendered
    assert frame.stop_ids == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)


def test_a_model_without_template_cannot_chat(tiny_llama):
    tokenizer = load_tokenizer(tiny_llama)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="tiny has no chat template.*set teach.style to text"):
        make_frame(tokenizer, "tiny")
    tokenizer.chat_template = "{{ messages[0]['content'] | length }}"
    with pytest.raises(InputError, match="doesn't show the user's message"):
        make_frame(tokenizer, "tiny")
