"""The labels stage: the answers that a file of prompts brings, as the text that a teacher's phases learn from.

    train/, validation/, ..   the files of `rounds`, as the teach stage has them, without signals
    prose-train/, ..          the prose of the recipe, for phases that mix it in
    labels.json               counts: asked, kept, dropped by reason, tokens

No answer is written: the teacher learns what the file says. Prompts are held out as the teach stage holds them out, so
that no figure is of a teacher that saw the answer.

A teacher that is to make up questions like these (`teach.new_tokens`) learns them too: in training text a question's
tokens count QUESTION_WEIGHT each, an answer's 1, since nobody is asked for the question in the end.
"""

from dataclasses import replace
from pathlib import Path

from edgedistill.config.prompts import PromptFile
from edgedistill.config.recipe import Recipe
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.signals.shards import WRITTEN
from edgedistill.store.whole import write_json
from edgedistill.teach.drafts import Assignment, shows_system, task_frame
from edgedistill.teach.prose import read_all_prose
from edgedistill.teach.rounds import write_rounds
from edgedistill.teach.training_text import given_prompts_of, written_holdout

QUESTION_WEIGHT = 0.3


def write_labels(teacher: Path, name: str, file: PromptFile, recipe: Recipe, work: Path, progress: Progress) -> None:
    """Write the labelled answers to `work`; see the top of this file.

    Args:
        teacher: a folder or GGUF file, for its tokenizer and template.
        name: what messages call it.
        file: of a task or of prompts.
        recipe: decided (`Recipe.decided`); names the file.
        work: the stage's folder. Whole rounds that a killed run left in it are kept.
        progress: where it is shown.
    Raises:
        InputError: the file is wrong, or the teacher has no chat template.
        RunError: too few answers can be used.
    """
    tokenizer = load_tokenizer(teacher)
    taught = file.used(recipe.teach.answers)
    frame = task_frame(tokenizer, name, taught)
    holdout = written_holdout(recipe, taught, shows_system(frame, taught))
    own = recipe.model_copy(update={"teach": recipe.teach.model_copy(update={"answers": "own"})})
    prompts = given_prompts_of(file, own, frame, progress)
    assignment = Assignment(None, tokenizer, name, frame, prompts, None, own.teach, 0, holdout)
    if recipe.teach.new_tokens:
        assignment = replace(assignment, question_weight=QUESTION_WEIGHT)
    tally = write_rounds(assignment, WRITTEN, None, work, progress, "labels")
    counts = {
        "asked": tally.asked,
        "kept": tally.kept,
        "tokens": tally.tokens,
        "split_tokens": tally.split_tokens,
        "prose_tokens": read_all_prose(None, tokenizer, own.teach, 0, work, progress),
        "dropped": dict(sorted(tally.dropped.items())),
    }
    write_json(work / "labels.json", counts)
