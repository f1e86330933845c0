"""Chats in the float model's own words: some to learn and calibrate on, others to judge on; no prompt is in both.

Judged are answers to MT-bench's first turns and Self-Instruct's user-oriented tasks; learned from are answers to
Arena-Hard's prompts and Self-Instruct's seed tasks. Answers are drawn by llama.cpp at temperature 0.8 from the model in
bfloat16, one seed a prompt.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contest.corpus import put
from contest.domains import is_foreign
from edgedistill.progress import Progress
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.sampling import BatchSettings

TEMPERATURE = 0.8
JUDGE_PROMPTS, LEARN_PROMPTS = 40, 120
JUDGE_ANSWER, LEARN_ANSWER = 160, 192  # tokens at most
LONGEST_PROMPT = 400  # characters: a short prompt leaves the room to the answer
PARALLEL = 32
CONTEXT = 512


def judge_prompts(data: Path) -> list[str]:
    """Half of them MT-bench's first turns, half user-oriented tasks, evenly taken."""
    bench = [row["turns"][0] for row in _rows(data / "mt_bench" / "mt_bench_question.jsonl")]
    tasks = [_task(row) for row in _rows(data / "self_instruct" / "user_oriented_instructions.jsonl")]
    return [*_evenly(bench, JUDGE_PROMPTS // 2), *_evenly(tasks, JUDGE_PROMPTS // 2)]


def learn_prompts(data: Path, judged: Sequence[str]) -> list[str]:
    """Half of them Arena-Hard's, half seed tasks; none of `judged`."""
    arena = [row["prompt"] for row in _rows(data / "arena_hard" / "arena_hard_v0.1.jsonl")]
    tasks = [_task(row) for row in _rows(data / "self_instruct" / "seed_tasks.jsonl")]
    seen = {_plain(prompt) for prompt in judged}
    pools = [[prompt for prompt in pool if _plain(prompt) not in seen] for pool in (arena, tasks)]
    return [prompt for pool in pools for prompt in _evenly(pool, LEARN_PROMPTS // 2)]


def training_prompts(data: Path, judged: Sequence[str]) -> list[str]:
    """All short prompts of Arena-Hard's two versions and all seed tasks, none of `judged`, none twice and none in
    another script: those are a domain of the judges.
    """
    arena = [
        row["prompt"] for name in ("v0.1", "v2.0") for row in _rows(data / "arena_hard" / f"arena_hard_{name}.jsonl")
    ]
    tasks = [_task(row) for row in _rows(data / "self_instruct" / "seed_tasks.jsonl")]
    seen = {_plain(prompt) for prompt in judged}
    found = {_plain(prompt): prompt for prompt in [*arena, *tasks] if len(prompt) <= LONGEST_PROMPT}
    return [prompt for plain, prompt in found.items() if plain not in seen and not is_foreign(prompt)]


def write_chats(
    model: LlamaCpp, prompts: Sequence[str], longest: int, out: Path, progress: Progress
) -> list[dict[str, Any]]:
    """Answer every prompt that leaves room to answer; keep all in `out` and return it.

    Args:
        longest: tokens of an answer at most.
    Returns:
        Objects with prompt, answer, ids of the whole chat and `first`, the place of the prompt's last token.
    """
    if not out.is_file():
        known = {prompt: model.apply_template([{"role": "user", "content": prompt}])[1] for prompt in prompts}
        prompts = [
            prompt for prompt in prompts if len(known[prompt]) + longest <= CONTEXT
        ]  # some are numbers, a token each digit
        asked = [known[prompt] for prompt in prompts]
        progress.start(f"write {out.stem}", len(asked), "chats")
        answers: dict[int, list[int]] = {}
        settings = BatchSettings(TEMPERATURE)
        for index, done in model.generate_stream(asked, longest, settings, range(len(asked))):
            answers[index] = done.tokens
            progress.advance(1)
        progress.finish()
        chats = [
            {
                "prompt": prompt,
                "answer": model.detokenize(answers[i]),
                "ids": [*asked[i], *answers[i]],
                "first": len(asked[i]) - 1,
            }
            for i, prompt in enumerate(prompts)
        ]
        put(out, json.dumps(chats, ensure_ascii=False, indent=1) + "\n")
    return json.loads(out.read_text(encoding="utf-8"))


def as_text(model: LlamaCpp, chats: Sequence[dict[str, Any]]) -> str:
    """Chats as the model reads them, control tokens written out, one after the other."""
    return "\n".join(model.detokenize(chat["ids"], special=True) for chat in chats) + "\n"


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def _task(row: dict[str, Any]) -> str:
    given = row["instances"][0]["input"]
    return f"{row['instruction']}\n\n{given}" if given else row["instruction"]


def _evenly(prompts: Sequence[str], count: int) -> list[str]:
    short = [prompt for prompt in prompts if len(prompt) <= LONGEST_PROMPT]
    return [short[i * len(short) // count] for i in range(min(count, len(short)))] if len(short) > count else short


def _plain(prompt: str) -> str:
    return " ".join(prompt.lower().split())
