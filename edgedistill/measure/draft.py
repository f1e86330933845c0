"""What a draft model is worth to a target: acceptance, and tokens/s with and without it, in llama.cpp.

Both ways answer each prompt one after the other, in turn first, so that what else the machine does meets both alike.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edgedistill.config.prompts import read_prompts
from edgedistill.config.tasks import BUILT_IN, evenly, read_questions
from edgedistill.errors import InputError
from edgedistill.machine import machine_facts, usable_cores
from edgedistill.measure.bootstrap import middle, resampled_sums
from edgedistill.measure.intervals import CONFIDENCE
from edgedistill.progress import Progress
from edgedistill.results.draft import DRAFT_SCHEMA, DraftFigures
from edgedistill.runtimes.draft import DraftPair
from edgedistill.runtimes.speculative import Drafting, Spoken

PROMPTS = 16  # of our own, where no file is given


def own_prompts() -> list[str]:
    """What is asked where no file of prompts is given: questions that come along."""
    return [f"{item.question}?" for item in read_questions(BUILT_IN[0], PROMPTS).items]


def measure_draft(
    files: tuple[Path, Path],
    prompts: Sequence[str],
    most_new: int,
    drafting: Drafting,
    progress: Progress,
    threads: int | None = None,
) -> DraftFigures:
    """Answer prompts with a draft model and without it.

    Args:
        files: the target and the draft model.
        prompts: users' messages.
        most_new: tokens of an answer at most.
        drafting: how much is drafted.
        progress: where it is shown.
        threads: None for all cores that this process may use.
    Raises:
        InputError: a file is missing or no GGUF, their tokens differ, or no answer is longer than a token.
        RunError: llama.cpp refuses a file.
    """
    target, draft = files
    threads = threads or usable_cores()
    pairs: list[tuple[Spoken, Spoken]] = []
    with DraftPair(target, draft, threads) as pair:
        pair.speak(prompts[0], min(most_new, 8), drafting)  # a warm-up: both files are read from the disk
        progress.start(f"{target.name} with {draft.name}", len(prompts), "answers")
        for number, prompt in enumerate(prompts):
            ways = [drafting, None] if number % 2 else [None, drafting]
            spoken = {way is not None: pair.speak(prompt, most_new, way) for way in ways}
            pairs.append((spoken[True], spoken[False]))
            progress.advance(1)
    progress.finish()
    pairs = [(with_draft, alone) for with_draft, alone in pairs if alone.passes and with_draft.passes]
    if not pairs:
        raise InputError(
            f"{target}: no answer is longer than a token, so there is nothing to draft; give other prompts"
        )
    sums = _sums(pairs)
    with_s, with_tokens, alone_s, alone_tokens = sums.sum(0)
    low, high = middle(_speedup(resampled_sums(sums)), CONFIDENCE)
    return DraftFigures(
        schema=DRAFT_SCHEMA,
        target=str(target),
        draft=str(draft),
        target_bytes=target.stat().st_size,
        draft_bytes=draft.stat().st_size,
        runtime_version=f"llama-cpp-python {version('llama-cpp-python')}",
        threads=threads,
        prompts=len(pairs),
        most=drafting.most,
        least_probability=drafting.least_probability,
        tokens=int(with_tokens),
        drafted=sum(with_draft.drafted for with_draft, _ in pairs),
        accepted=sum(with_draft.accepted for with_draft, _ in pairs),
        tokens_per_pass=float(with_tokens) / sum(with_draft.passes for with_draft, _ in pairs),
        with_tokens_per_s=float(with_tokens / with_s),
        without_tokens_per_s=float(alone_tokens / alone_s),
        speedup=float(_speedup(sums.sum(0))),
        low=low,
        high=high,
        same_answers=sum(with_draft.tokens == alone.tokens for with_draft, alone in pairs),
        machine=machine_facts(),
    )


def user_prompts(path: Path) -> list[str]:
    """The last user's messages of a file of prompts, at most PROMPTS of them, evenly over the file."""
    prompts = read_prompts(path).used("teacher")
    return [prompt.messages[-1].text for prompt in evenly(prompts, PROMPTS)]


def _sums(pairs: Sequence[tuple[Spoken, Spoken]]) -> np.ndarray:
    """[pairs, 4]: seconds and tokens with the draft model, then without it; each answer's first token comes with its
    prompt.
    """
    return np.array([[*_spent(with_draft), *_spent(alone)] for with_draft, alone in pairs])


def _spent(spoken: Spoken) -> tuple[float, int]:
    return spoken.seconds, len(spoken.tokens) - 1


def _speedup(sums: np.ndarray) -> np.ndarray:
    """Seconds of a token without the draft model over those with it, of sums [..., 4]."""
    return np.asarray((sums[..., 2] / sums[..., 3]) / (sums[..., 0] / sums[..., 1]))
