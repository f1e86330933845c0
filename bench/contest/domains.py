"""Texts of domains that nothing here is calibrated or trained on: code, word problems, other languages, dialogue.

    judge/code.txt            MBPP's test problems with their solutions
    judge/word-problems.txt   GSM8K's test questions with their answers, without the marks of the calculator
    judge/languages.txt       what people ask in Arena-Hard v2.0 in other scripts than the Latin one
    judge/dialogue.json       MT-bench's questions of two turns with GPT-4's reference answers, as messages

A fit or a training that learned its own text by heart looks good on texts of that kind. Here it doesn't.
"""

import json
import re
from pathlib import Path
from typing import Any

from contest.corpus import put

CODE, WORD_PROBLEMS, LANGUAGES, DIALOGUE = "code.txt", "word-problems.txt", "languages.txt", "dialogue.json"
CALCULATOR = re.compile(r"<<.*?>>")  # GSM8K's answers hold <<16-3=13>> before each result
FOREIGN = 0.3  # share of a prompt's letters beyond ASCII from which it counts as of another script
LONGEST = 1_500  # characters that are read of such a prompt


def code_text(problems: list[dict[str, Any]]) -> str:
    """Each problem's words, then its solution."""
    return "\n\n".join(f"{row['prompt']}\n\n{_unix(row['code']).rstrip()}" for row in problems) + "\n"


def word_problem_text(problems: list[dict[str, Any]]) -> str:
    """Each question with its worked answer."""
    pairs = (f"Question: {row['question']}\nAnswer: {CALCULATOR.sub('', row['answer'])}" for row in problems)
    return "\n\n".join(pairs) + "\n"


def is_foreign(prompt: str) -> bool:
    """Whether a prompt is written in another script than the Latin one, or nearly so."""
    letters = [letter for letter in prompt if letter.isalpha()]
    return sum(not letter.isascii() for letter in letters) > FOREIGN * len(letters)


def language_text(prompts: list[str]) -> str:
    """The beginnings of the prompts in other scripts."""
    return "\n\n".join(prompt[:LONGEST] for prompt in prompts if is_foreign(prompt)) + "\n"


def dialogues(questions: list[dict[str, Any]], answers: list[dict[str, Any]]) -> list[list[dict[str, str]]]:
    """Conversations that end with an answer: each of one turn, and the same with its second turn."""
    turns = {row["question_id"]: row["turns"] for row in questions}
    found = []
    for row in answers:
        first, second = turns[row["question_id"]]
        messages = []
        for question, answer in zip((first, second), row["choices"][0]["turns"], strict=True):
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            found.append(list(messages))
    return found


def write_domains(data: Path, out: Path) -> None:
    """Write the four under `out`; files that are there are left."""
    bench, arena = data / "mt_bench", data / "arena_hard" / "arena_hard_v2.0.jsonl"
    texts = {
        CODE: lambda: code_text(_rows(data / "mbpp" / "mbpp_test.jsonl")),
        WORD_PROBLEMS: lambda: word_problem_text(_rows(data / "gsm8k" / "test.jsonl")),
        LANGUAGES: lambda: language_text([_unix(row["prompt"]) for row in _rows(arena)]),
        DIALOGUE: lambda: _json(
            dialogues(_rows(bench / "mt_bench_question.jsonl"), _rows(bench / "mt_bench_reference_answer_gpt-4.jsonl"))
        ),
    }
    for name, make in texts.items():
        if not (out / name).is_file():
            put(out / name, make())


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")
