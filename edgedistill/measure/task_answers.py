"""The user's task put to one packed file: greedy answers in its runtime, graded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgedistill.config.task import CLASSIFY, EXTRACT
from edgedistill.config.task_data import Labelled
from edgedistill.measure.bootstrap import f1_difference, f1_interval
from edgedistill.measure.intervals import CONFIDENCE, paired_difference, wilson
from edgedistill.measure.task_grades import Grades, grade_labels, grade_objects, grade_texts
from edgedistill.measure.task_items import TaskItems, plain_text
from edgedistill.measure.verifier import Verifier
from edgedistill.progress import Progress
from edgedistill.results.codec import JsonData
from edgedistill.results.measurement import TaskAnswers
from edgedistill.results.row import RIVAL
from edgedistill.results.share import Difference
from edgedistill.results.task import FieldScore, TaskScore, WrongAnswer
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.llama import LlamaCpp

WRONG_SHOWN = 5
LONGEST_SHOWN = 600  # characters of a prompt or an answer that a report keeps


@dataclass(frozen=True)
class Said(JsonData):
    """One answer, and whether the limit cut it off."""

    text: str
    cut: bool


@dataclass(frozen=True)
class AllSaid(JsonData):
    """A file's answers, in the order of the rows."""

    answers: tuple[Said, ...]


def ask_rows(model: Runtime, items: TaskItems, progress: Progress) -> AllSaid:
    """The likeliest answer to each row, up to the file's own ends: many at once in llama.cpp, else one by one.

    Raises:
        InputError: the file's chat template refuses a row.
    """
    prompts = [_prompt(model, row, items.chats) for row in items.rows]
    most = items.settings.max_answer_tokens
    tokens: dict[int, list[int]] = {}
    if isinstance(model, LlamaCpp):
        for index, generation in model.generate_stream(prompts, most):
            tokens[index] = generation.tokens
            progress.advance(1)
    else:
        for index, prompt in enumerate(prompts):
            tokens[index] = model.generate(prompt, most, stop_ids=None)
            progress.advance(1)
    stops = set(model.info().stop_ids)
    answers = []
    for index in range(len(prompts)):
        ended = bool(tokens[index]) and tokens[index][-1] in stops
        text = model.detokenize(tokens[index][:-1] if ended else tokens[index])
        answers.append(Said(text.strip(), cut=not ended))
    return AllSaid(tuple(answers))


def grade(items: TaskItems, said: AllSaid, on_answer: Callable[[], None]) -> TaskAnswers:
    """A file's score.

    Args:
        items: what was asked.
        said: its answers.
        on_answer: called after each answer that a verifier has checked.
    Raises:
        RunError: the verifier failed.
    """
    expected, got = [row.answer for row in items.rows], [answer.text for answer in said.answers]
    grades = _grades(items, expected, got, on_answer)
    right, n = sum(grades.right), len(grades.right)
    low, high = wilson(right, n)
    cut = sum(answer.cut for answer in said.answers) / n
    score = TaskScore(
        metric=items.facts.metric,
        items=n,
        right=right,
        share=right / n,
        low=low,
        high=high,
        figures=grades.figures | {"cut_off_share": cut},
        wrong=_wrong(items.rows, got, grades.right),
        f1=_field_score(grades) if grades.fields else None,
    )
    return TaskAnswers(score, "".join("1" if each else "0" for each in grades.right), grades.fields)


def _field_score(grades: Grades) -> FieldScore:
    return FieldScore(grades.figures["field_f1"], *f1_interval(grades.fields, CONFIDENCE))


def with_differences(own: TaskAnswers, others: Mapping[str, TaskAnswers], comparisons: int) -> TaskScore:
    """A file's score with its paired differences from other files' answers to the same rows.

    Args:
        own: the file's answers.
        others: those of the "float" file, the "teacher" and the rival, where there are such.
        comparisons: differences from one of these that are shown together; as for `answers.differences`. From the rival
            one file differs in the end.
    """
    differences: dict[str, Difference] = {}
    of_fields: dict[str, Difference] = {}
    for name, other in others.items():
        confidence = 1 - (1 - CONFIDENCE) / (1 if name == RIVAL else max(1, comparisons))
        pair = paired_difference([bit == "1" for bit in other.bits], [bit == "1" for bit in own.bits], confidence)
        differences[name] = Difference(pair.difference, pair.low, pair.high, pair.n)
        if own.fields and other.fields:
            of_fields[name] = Difference(*f1_difference(other.fields, own.fields, confidence), pair.n)
    f1 = own.score.f1
    if f1 is not None:
        f1 = replace(f1, to_float=of_fields.get("float"), to_teacher=of_fields.get("teacher"))
    score = replace(own.score, to_float=differences.get("float"), to_teacher=differences.get("teacher"), f1=f1)
    return replace(score, to_rival=differences.get(RIVAL))


def _prompt(model: Runtime, row: Labelled, chats: bool) -> list[int]:
    if chats:
        return model.apply_template([{"role": each.role, "content": each.text} for each in row.messages])[1]
    return model.tokenize(plain_text(row.messages), add_bos=True)


def _grades(items: TaskItems, expected: Sequence[str], got: Sequence[str], on_answer: Callable[[], None]) -> Grades:
    kind, settings = items.facts.kind, items.settings
    if kind == CLASSIFY:
        return grade_labels(expected, got, items.labels)
    if kind == EXTRACT:
        return grade_objects(expected, got)
    if settings.verify is None:
        return grade_texts(expected, got)
    return Grades(Verifier(settings.verify, settings.verify_seconds).all(items.rows, got, on_answer), {})


def _wrong(rows: Sequence[Labelled], got: Sequence[str], right: Sequence[bool]) -> tuple[WrongAnswer, ...]:
    """The first few wrong answers; files that err on the same rows then show the same ones."""
    wrong = [(row, text) for row, text, good in zip(rows, got, right, strict=True) if not good]
    return tuple(_wrong_answer(row, text) for row, text in wrong[:WRONG_SHOWN])


def _wrong_answer(row: Labelled, text: str) -> WrongAnswer:
    return WrongAnswer(_short(row.messages[-1].text), _short(row.answer), _short(text))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
