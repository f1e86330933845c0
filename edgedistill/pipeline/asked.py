"""What the teacher is asked, and the files that it is read from, for the keys of the stages that read them."""

from pathlib import Path

from edgedistill.config.prompts import PromptFile, read_prompts
from edgedistill.config.task import Task
from edgedistill.config.task_data import TaskData
from edgedistill.config.teach import OWN_PROMPTS, Teach
from edgedistill.pipeline.context import Context
from edgedistill.pipeline.stage import Json, Outside


def teaching_prompts(task: TaskData | None, teach: Teach) -> PromptFile | None:
    """What the teacher is asked: a task's rows to learn from, the recipe's file, or None: it makes up the questions.

    Raises:
        InputError: the file is missing or malformed.
    """
    if task is not None:
        return PromptFile(task.learning_prompts(), {})
    if teach.prompts == OWN_PROMPTS:
        return None
    return read_prompts(Path(teach.prompts), teach.prompt_field)


def asked_files(context: Context) -> tuple[dict[str, Outside], dict[str, Json]]:
    """The files that the teacher's prompts are read from, and how; none where it makes up the questions.

    Of files it is the content that counts, wherever they lie.
    """
    task, teach = context.recipe.task, context.recipe.teach
    if task is not None:
        return task_files(task), {"task": task_rows(task)}
    if teach.prompts == OWN_PROMPTS:
        return {}, {}
    return {"prompts": Outside(Path(teach.prompts))}, {"prompts": Path(teach.prompts).suffix}


def task_files(task: Task) -> dict[str, Outside]:
    """A task's files, as a stage reads them."""
    files = {"task": Outside(Path(task.file))}
    if isinstance(task.test, str):
        files["task test"] = Outside(Path(task.test))
    return files


def asked_task(task: Task) -> dict[str, Json]:
    """The settings by which files are asked a task and graded. Of a verifier's own files the content counts."""
    words: list[Json] = [Path(word).name if Path(word) in task.verify_files else word for word in task.verify or ()]
    limits: dict[str, Json] = {"items": task.items, "max_answer_tokens": task.max_answer_tokens}
    return task_rows(task) | limits | {"verify": words, "verify_seconds": task.verify_seconds}


def task_rows(task: Task) -> dict[str, Json]:
    """The settings by which a task's files become rows and are split."""
    return {
        "kind": task.kind,
        "test": "file" if isinstance(task.test, str) else task.test,
        "prompt_field": task.prompt_field,
        "answer_field": task.answer_field,
        "suffix": Path(task.file).suffix,
    }
