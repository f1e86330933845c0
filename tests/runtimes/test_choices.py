"""Log-likelihoods of options: one shared batch in llama.cpp against transformers, and against the file's own plain
logits.
"""

import numpy as np
import pytest

from edgedistill.errors import InputError
from edgedistill.runtimes import choices as choices_module
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.choices import TokenChoice, _packs
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.onnx import OnnxRuntime
from tests.tiny import CORPUS

CACHE_ERROR = 0.03  # of a logit: llama.cpp keeps keys and values in float16


def make_choices(llama, seed=0, count=40):
    """Questions with 1 to 6 options of 1 to 9 tokens."""
    rng = np.random.default_rng(seed)
    texts = [llama.tokenize(text) for text in CORPUS[:5]]
    found = []
    for index in range(count):
        text = texts[index % 5]
        cut = int(rng.integers(1, len(text) - 1))
        lengths = rng.integers(1, 10, int(rng.integers(1, 7)))
        found.append((text[:cut], [rng.integers(3, 400, int(length)).tolist() for length in lengths]))
    return found


def expected_of(logits, prompt, option):
    """Σ log softmax in float64, from the logits of the whole sequence."""
    wide = logits(prompt + option).astype(np.float64)
    total = 0.0
    for place, token in enumerate(option):
        row = wide[len(prompt) - 1 + place]
        total += row[token] - row.max() - np.log(np.exp(row - row.max()).sum())
    return total


def test_sums_are_transformers(llama, float_logits):
    choices = make_choices(llama)
    for (prompt, options), found in zip(choices, llama.choice_log_probs(choices), strict=True):
        expected = [expected_of(float_logits, prompt, option) for option in options]
        assert len(found) == len(options)
        np.testing.assert_allclose(found, expected, atol=CACHE_ERROR)


def test_one_question_is_its_plain_logits(llama):
    """Alone in its batch a question meets the very kernels that `logits` does."""
    for prompt, options in make_choices(llama, seed=1):
        (found,) = llama.choice_log_probs([(prompt, options)])
        np.testing.assert_allclose(found, [expected_of(llama.logits, prompt, option) for option in options], atol=1e-5)
        np.testing.assert_allclose(next(Runtime.choice_log_probs(llama, [(prompt, options)])), found, atol=1e-5)


def test_onnxruntime_gives_the_same(onnx_folder):
    with OnnxRuntime(onnx_folder[0], threads=1) as model:
        choices = [(model.tokenize("The capital of France"), [model.tokenize(" is Paris"), model.tokenize(" Rome")])]
        (found,) = model.choice_log_probs(choices)
        np.testing.assert_allclose(
            found, [expected_of(model.logits, *[choices[0][0], option]) for option in choices[0][1]], atol=1e-4
        )


def test_onnxruntime_reads_a_prompt_once_and_forgets_each_option(onnx_folder, llama):
    """Options of 1 to 9 tokens one after the other: none may see the one before it, nor a question the one before
    that.
    """
    with OnnxRuntime(onnx_folder[0], threads=1) as model:
        choices = make_choices(llama, seed=2, count=12)
        for (prompt, options), found in zip(choices, list(model.choice_log_probs(choices)), strict=True):
            np.testing.assert_allclose(
                found, [expected_of(model.logits, prompt, option) for option in options], atol=1e-4
            )
        room = model.info().n_ctx_train
        with pytest.raises(
            InputError, match=f"choice 0 has {room + 1} tokens with its longest option; the context holds {room}"
        ):
            list(model.choice_log_probs([([5] * room, [[6]])]))
        with pytest.raises(InputError, match="choice 0, option 1: there is no token"):
            list(model.choice_log_probs([([5], [[6], []])]))


def test_other_questions_change_no_more_than_the_cache_does(llama):
    """In larger batches llama.cpp's attention sums in float32 instead of float16."""
    choices = make_choices(llama, seed=2)
    together = list(llama.choice_log_probs(choices))
    llama.generate(choices[0][0], 3)
    assert list(llama.choice_log_probs(choices)) == together
    for choice, found in zip(choices, together, strict=True):
        np.testing.assert_allclose(found, next(llama.choice_log_probs([choice])), atol=CACHE_ERROR)


def test_letters_to_choose_from_need_one_row(llama, float_logits):
    """Options of one token are all read from the prompt's last logits: more sequences than rows."""
    prompt, letters = llama.tokenize("Answer:"), [[token] for token in range(40, 46)]
    (found,) = llama.choice_log_probs([(prompt, letters)])
    np.testing.assert_allclose(
        found, [expected_of(float_logits, prompt, letter) for letter in letters], atol=CACHE_ERROR
    )


def test_prompt_longer_than_a_batch_is_split(gguf_file, float_logits):
    with LlamaCpp(gguf_file, threads=1, context=800) as model:
        text = model.tokenize(" ".join(CORPUS))[:600]
        options = [text[3:9], text[20:22]]
        (found,) = model.choice_log_probs([(text, options)])
        np.testing.assert_allclose(
            found, [expected_of(float_logits, text, option) for option in options], atol=CACHE_ERROR
        )


def test_packs_keep_the_order_and_the_limits(monkeypatch):
    monkeypatch.setattr(choices_module, "MICRO_BATCH", 20)
    monkeypatch.setattr(choices_module, "SEQUENCES", 4)
    small = [TokenChoice([1] * 8, [[1, 2], [3]]), TokenChoice([1] * 8, [[1, 2, 3]])]
    choices = [*small, TokenChoice([1] * 30, [[5]]), TokenChoice([1], [[1]] * 4), TokenChoice([1], [[1]])]
    packs = list(_packs(choices, most_rows=100))
    assert [choice for pack in packs for choice in pack] == choices
    assert [len(pack) for pack in packs] == [2, 1, 1, 1]  # 9 + 10 tokens; 30 alone; four sequences; one more
    assert [len(pack) for pack in _packs(small, most_rows=4)] == [1, 1]  # 2 + 3 rows


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (([], [[1]]), "choice 0, the prompt: there is no token"),
        (([1], [[2], []]), "choice 0, option 1: there is no token"),
        (([1], [[99999]]), "choice 0, option 0: token 99999 is not in the vocabulary"),
        (([1], []), "choice 0 has 0 options; it must have 1 to 128"),
        (([1], [[2]] * 129), "choice 0 has 129 options; it must have 1 to 128"),
        (
            ([1] * 120, [[2] * 9]),
            "choice 0 has 129 tokens with its longest option; the context holds 128. Open the file with a larger",
        ),
    ],
)
def test_wrong_choice_is_one_sentence(llama, choice, words):
    with pytest.raises(InputError, match=words):
        list(llama.choice_log_probs([choice]))
    assert len(next(llama.choice_log_probs([([5], [[6]])]))) == 1


def test_plain_way_refuses_an_empty_option(llama):
    with pytest.raises(InputError, match="a choice has an empty prompt or an empty option"):
        list(Runtime.choice_log_probs(llama, [([1], [[]])]))
