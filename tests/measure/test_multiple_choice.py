"""Answers against EleutherAI's definition, written out on transformers' logits."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgedistill.errors import InputError
from edgedistill.measure.multiple_choice import Question, QuestionAnswer, answer_questions, right_answers
from edgedistill.progress import QuietProgress
from edgedistill.runtimes.llama import LlamaCpp
from tests.tiny import ADJECTIVES, NOUNS, VERBS

QUESTIONS = [
    Question(
        f"Question: Which {noun} {VERBS[index % len(VERBS)]} the {ADJECTIVES[index % len(ADJECTIVES)]} dog?\nAnswer:",
        (f"the {noun}", "Paris", "365 days and 12 months", "a small house by the sea", "7")[: 2 + index % 4],
        index % 2,
    )
    for index, noun in enumerate(NOUNS)
]


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with LlamaCpp(tiny_gguf, threads=1, context=256) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def torch_log_prob(tiny_llama):
    """A function: ids of context and continuation -> Σ log p of the continuation."""
    network = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float64).eval()

    def log_prob(context: list[int], continuation: list[int]) -> float:
        with torch.inference_mode():
            rows = network(torch.tensor([context + continuation])).logits[0].double().log_softmax(-1)
        return float(sum(rows[len(context) - 1 + place, token] for place, token in enumerate(continuation)))

    return log_prob


def test_answers_are_the_harness_definition(model, tiny_llama, torch_log_prob):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    answers = answer_questions(model, QUESTIONS, QuietProgress())
    differs = 0
    for question, answer in zip(QUESTIONS, answers, strict=True):
        context = tokenizer.encode(question.prompt)
        sums = []
        for option in question.options:
            whole = tokenizer.encode(question.prompt + " " + option)
            sums.append(torch_log_prob(context, whole[len(context) :]))
        norms = [value / len(option) for value, option in zip(sums, question.options, strict=True)]
        assert answer.log_probs == pytest.approx(sums, abs=0.03)
        assert answer.chosen == sums.index(max(sums))
        assert answer.chosen_norm == norms.index(max(norms))
        differs += answer.chosen != answer.chosen_norm
    assert differs > 0, "acc and acc_norm always agree here, so nothing tells them apart"


def test_conversation_goes_through_the_template_and_gets_no_blank(model, tiny_llama, torch_log_prob):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    turn = {"role": "user", "content": "What is the capital of France?"}
    options = ("Paris", "The old dog")
    (answer,) = answer_questions(model, [Question((turn,), options, 0)], QuietProgress())
    text = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    context = tokenizer.encode(text, add_special_tokens=False)
    assert answer.log_probs == pytest.approx(
        [torch_log_prob(context, tokenizer.encode(option)) for option in options], abs=0.03
    )


def test_blank_after_the_question_changes_no_token_of_it(model):
    """The harness moves it to the option, so that the question's last token is the same."""
    questions = [Question(prompt, ("sees", "runs"), 0) for prompt in ("The dog", "The dog ")]
    plain, blank = answer_questions(model, questions, QuietProgress())
    ids = model.tokenize("The dog")
    tail = [model.tokenize(f"The dog  {word}")[len(ids) :] for word in ("sees", "runs")]
    assert blank.log_probs == pytest.approx(next(model.choice_log_probs([(ids, tail)])), abs=0.03)
    assert plain.log_probs != blank.log_probs


def test_right_answers_by_either_figure():
    questions = [Question("a", ("x", "yy"), 0), Question("b", ("x", "yy"), 1)]
    answers = [QuestionAnswer((-1.0, -1.5), 0, 1), QuestionAnswer((-1.0, -1.5), 0, 1)]
    assert right_answers(questions, answers, normalized=False) == [True, False]
    assert right_answers(questions, answers, normalized=True) == [False, True]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Question("Why?", ("because",), 0), "question 1 has 1 options; it needs a prompt and at least two options"),
        (
            Question("Why?", ("because", ""), 0),
            "question 1 has 2 options; it needs a prompt and at least two options, none of them empty",
        ),
        (Question("", ("a", "b"), 0), "it needs a prompt"),
        (Question("Why?", ("a", "b"), 2), r"question 1: the right option is 2; it must be in 0\.\.1"),
    ],
)
def test_bad_question_is_one_sentence(model, question, words):
    with pytest.raises(InputError, match=words):
        answer_questions(model, [QUESTIONS[0], question], QuietProgress())
