"""The multiple-choice questions and the requests that files answer beside text: our sets, or a user's own.

A set is a JSONL file with a question a line: {"question": "...", "options": ["...", "..."], "answer": 1}, where the
answer is the index of the right option, from 0, or its letter, from A. Its first line may be {"about": {"source":
"...", "license": "..."}}.

It is part of config/ because the plan checks the files before anything long begins; measure reads them again.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import edgedistill
from edgedistill.errors import InputError, did_you_mean
from edgedistill.reading import refuse_surrogates, text_lines

BUILT_IN_FOLDER = Path(edgedistill.__file__).resolve().parent / "data" / "tasks"
BUILT_IN = ("openbookqa",)
REQUESTS_FILE = BUILT_IN_FOLDER / "requests.jsonl"
LABELS = ("unsafe", "safe")  # of requests: ones to refuse, and ones that only look like these
SUFFIX = ".jsonl"
MOST_OPTIONS = 26  # as many as there are letters
MAX_CHARACTERS = 2**16  # of a question or an option

Item = TypeVar("Item")


@dataclass(frozen=True)
class Choice:
    """A question, the texts that may follow it after a blank, and the index of the right one."""

    question: str
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class ItemSet(Generic[Item]):
    """Items of one kind; `source` and `license` are None where the file doesn't say."""

    name: str
    items: tuple[Item, ...]
    source: str | None
    license: str | None


def chance_share(items: Sequence[Choice | str]) -> float | None:
    """The share of questions that guessing answers right, the mean of 1 / options; None for requests."""
    shares = [1 / len(item.options) for item in items if isinstance(item, Choice)]
    return sum(shares) / len(shares) if shares else None


def task_name(entry: str) -> str:
    """What an entry of measure.tasks is called: its own name, or the file's without its suffix."""
    return entry if entry in BUILT_IN else Path(entry).stem


def task_path(entry: str) -> Path:
    """The file of an entry of measure.tasks."""
    return BUILT_IN_FOLDER / f"{entry}{SUFFIX}" if entry in BUILT_IN else Path(entry)


def check_entry(entry: str) -> None:
    """Raise ValueError where an entry of measure.tasks is neither one of our sets nor the path of a .jsonl file."""
    if entry not in BUILT_IN and not entry.lower().endswith(SUFFIX):
        allowed = f"it must be {', '.join(BUILT_IN)}, or a {SUFFIX} file"
        raise ValueError(f"'{entry}' is no set of questions; {allowed}.{did_you_mean(entry, BUILT_IN)}")


def read_questions(entry: str, most: int | None = None) -> ItemSet[Choice]:
    """The questions of an entry of measure.tasks: at most `most`, spread evenly over the file; all where None.

    Raises:
        InputError: the file is missing, empty or not UTF-8, or a line is wrong; "FILE:LINE: ...".
    """
    return _read(task_path(entry), task_name(entry), _choice, most)


def read_requests(most: int) -> tuple[ItemSet[str], ...]:
    """Our own requests: a set for each of LABELS, with at most `most` of them."""
    requests = _read(REQUESTS_FILE, "requests", lambda row, where: (str(row["label"]), str(row["request"])), None)
    sets = []
    for label in LABELS:
        texts = [text for text_label, text in requests.items if text_label == label]
        sets.append(ItemSet(label, tuple(evenly(texts, most)), requests.source, requests.license))
    return tuple(sets)


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of the items, always the same, in their order and spread evenly over them."""
    count = min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _read(path: Path, name: str, item_of: Callable[[dict[str, Any], str], Item], most: int | None) -> ItemSet[Item]:
    about: dict[str, Any] = {}
    items: list[Item] = []
    for number, (where, row) in enumerate(_rows(path)):
        if not number and set(row) == {"about"}:
            about = row["about"] if isinstance(row["about"], dict) else {}
        else:
            items.append(item_of(row, where))
    if not items:
        raise InputError(f"{path}: it holds no question. Give at least one line with question, options and answer.")
    chosen = items if most is None else evenly(items, most)
    return ItemSet(name, tuple(chosen), _text_of(about, "source"), _text_of(about, "license"))


def _text_of(about: Mapping[str, object], key: str) -> str | None:
    value = about.get(key)
    return value if isinstance(value, str) else None


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(FILE:LINE, the object) of each line that isn't blank."""
    try:
        for number, line in text_lines(path):
            if line.strip():
                yield f"{path}:{number}", _object(line, f"{path}:{number}")
    except FileNotFoundError:
        raise InputError(
            f"{path}: there is no such file of questions. measure.tasks names {', '.join(BUILT_IN)}, or a path from "
            "the recipe's folder."
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: it is not a text in UTF-8 (byte {error.start}).") from None
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror}).") from None


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: it is not JSON ({error.msg}, column {error.colno}). Write one object a line."
        ) from None
    except (ValueError, RecursionError):
        raise InputError(f"{where}: it is not JSON that can be read (nested too deep, or a number too long).") from None
    refuse_surrogates(row, line, where)
    if not isinstance(row, dict):
        raise InputError(
            f'{where}: it is no object; write {{"question": "...", "options": ["...", "..."], "answer": 0}}.'
        )
    return row


def _choice(row: dict[str, Any], where: str) -> Choice:
    """A question from its line."""
    if missing := [key for key in ("question", "options", "answer") if key not in row]:
        raise InputError(f"{where}: it has no '{missing[0]}'; a line has question, options and answer.")
    question, options = row["question"], row["options"]
    if not _is_text(question):
        raise InputError(f"{where}: the question must be a text with 1 to {MAX_CHARACTERS} characters.")
    if not isinstance(options, list) or not 2 <= len(options) <= MOST_OPTIONS or not all(map(_is_text, options)):
        raise InputError(f"{where}: options must be a list of 2 to {MOST_OPTIONS} texts, none of them empty.")
    if len(set(options)) < len(options):
        raise InputError(f"{where}: two options are the same, so which one is right can't be told.")
    return Choice(question, tuple(options), _right(row["answer"], len(options), where))


def _right(answer: Any, count: int, where: str) -> int:
    """The index that an answer names, by number or by letter."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]
    if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip().upper() in letters:
        return letters.index(answer.strip().upper())
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < count:
        return answer
    allowed = f"it must be an index from 0 to {count - 1}, or a letter from A to {letters[-1]}"
    raise InputError(f"{where}: the answer is {json.dumps(answer)[:40]}; {allowed}.")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= MAX_CHARACTERS
