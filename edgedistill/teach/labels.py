"""The labels stage: the answers that a file of prompts brings, as the text that a teacher's phases learn from.

    train/, validation/       signals-00000.safetensors: tokens and weights, as the teach stage has them
    prose-train/, ..          the prose of the recipe, for phases that mix it in
    labels.json               counts: answers, kept, dropped by reason, tokens

No answer is written: the teacher learns what the file says. Prompts that the teach stage keeps to judge on are left
out, so that no figure is of a teacher that saw the answer.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from edgedistill.config.conversation import Prompt
from edgedistill.config.prompts import PromptFile
from edgedistill.config.recipe import Recipe
from edgedistill.data.example import Example
from edgedistill.data.frame import ChatFrame, RefusedError, make_frame
from edgedistill.data.tokenize import tokenize
from edgedistill.data.trace import ASSISTANT, SPLITS, TRAIN, VALIDATION, Trace, Turn, normalized, prompt_id_of, split_of
from edgedistill.errors import RunError
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.signals.shards import save_shard, shard_path
from edgedistill.store.whole import write_json
from edgedistill.teach.drafts import REFUSED, shows_system, turns_of, words_of
from edgedistill.teach.filters import CUT_OFF, DUPLICATE
from edgedistill.teach.prose import read_all_prose
from edgedistill.teach.rounds import TOO_LONG
from edgedistill.teach.training_text import given_prompts_of, written_holdout

NO_ANSWER = "no answer"
SHARD_EXAMPLES = 4096


def write_labels(teacher: Path, name: str, file: PromptFile, recipe: Recipe, work: Path, progress: Progress) -> None:
    """Write the labelled answers to `work`; see the top of this file.

    Args:
        teacher: a folder or GGUF file, for its tokenizer and template.
        name: what messages call it.
        file: of a task or of prompts.
        recipe: decided (`Recipe.decided`); names the file.
        work: the stage's folder.
        progress: where it is shown.
    Raises:
        InputError: the file is wrong, or the teacher has no chat template.
        RunError: no answer of it can be used, or too few for training and validation.
    """
    settings = recipe.teach
    tokenizer = load_tokenizer(teacher)
    frame = make_frame(tokenizer, name)
    prompts = given_prompts_of(file, recipe, frame, progress)
    with_system = shows_system(frame, prompts)
    holdout = written_holdout(recipe, prompts, with_system)
    dropped: Counter[str] = Counter()
    kept: dict[str, list[Example]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    progress.start("labels", len(prompts), "answers")
    for number, prompt in enumerate(prompts):
        turns = _turns(prompt, with_system)
        words = normalized(words_of(turns))
        prompt_id = prompt_id_of(words_of(turns_of(prompt, with_system)))
        if prompt.answer is None or words in seen:
            dropped[NO_ANSWER if prompt.answer is None else DUPLICATE] += 1
            continue
        seen.add(words)
        split = split_of(prompt_id, holdout)
        example, why = _example(Trace(f"labels-{number:06d}", prompt_id, turns), tokenizer, frame, recipe)
        if example is None:
            dropped[why] += 1
        else:
            kept[split].append(example)
        progress.advance(1)
    progress.finish()
    for split in (TRAIN, VALIDATION):
        if not kept[split]:
            reasons = ", ".join(f"{count} {why}" for why, count in dropped.most_common()) or "nothing dropped"
            name_of_file = recipe.task.file if recipe.task else settings.prompts
            raise RunError(
                f"{name_of_file}: its {len(prompts)} prompts give no answer for {split} ({reasons}); give more "
                "labelled prompts, or raise teach.holdout"
            )
        _save(kept[split], work / split)
    prose = read_all_prose(None, tokenizer, settings, 0, work, progress)
    counts = {
        "prompts": len(prompts),
        "kept": {split: len(examples) for split, examples in kept.items()},
        "tokens": sum(example.kept for example in kept[TRAIN]),
        "prose_tokens": prose,
        "dropped": dict(sorted(dropped.items())),
    }
    write_json(work / "labels.json", counts)


def _turns(prompt: Prompt, with_system: bool) -> tuple[Turn, ...]:
    """A prompt and its answer; earlier answers of the conversation count too."""
    before = turns_of(prompt, with_system)
    counted = tuple(Turn(turn.role, turn.text, train=float(turn.role == ASSISTANT)) for turn in before)
    return (*counted, Turn(ASSISTANT, prompt.answer or ""))


def _example(
    trace: Trace, tokenizer: PreTrainedTokenizerBase, frame: ChatFrame, recipe: Recipe
) -> tuple[Example | None, str]:
    """The trace as the teacher reads it; or None and why it isn't kept."""
    settings = recipe.teach
    try:
        example = tokenize(trace, tokenizer, frame)
    except RefusedError:
        return None, REFUSED
    if not example.kept:
        return None, NO_ANSWER
    asked = int(example.positions[-1]) + 2 - _last_answer_tokens(example)
    if asked > settings.longest_prompt:
        return None, TOO_LONG
    if _last_answer_tokens(example) > settings.max_answer_tokens:
        return None, CUT_OFF
    return example, ""


def _last_answer_tokens(example: Example) -> int:
    """Tokens of the last run of positions that count."""
    positions = example.positions.tolist()
    count = 1
    while count < len(positions) and positions[-count - 1] == positions[-count] - 1:
        count += 1
    return count


def _save(examples: Sequence[Example], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(0, len(examples), SHARD_EXAMPLES):
        save_shard(shard_path(folder, number // SHARD_EXAMPLES), examples[number : number + SHARD_EXAMPLES])
