"""Answers to one prompt side by side: equal ones share one text, and words that the float model didn't write at that
place are marked.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby

from markupsafe import Markup, escape

from edgedistill.report.charts import SHAPES
from edgedistill.results.measurement import Sample
from edgedistill.results.row import Row
from edgedistill.show import visible

WORDS = re.compile(r"\s+|[^\s]+")
LONGEST = 1500  # words; beyond, only the first difference is looked for: comparing takes the square of the length
MANY_NAMES = 4  # a text of more files stands over the whole width, its names side by side
FIRST_SHOWN = 6  # answers that stand open; the others are behind a fold


@dataclass(frozen=True)
class Card:
    """One text, and the files that wrote it.

    Attributes:
        names: label and kind of each file; a kind may be "other".
        text: with its marks.
        note: where it differs from the float model's, or that it doesn't.
        first: whether it is among those that are shown first.
    """

    names: list[tuple[str, str]]
    text: Markup
    note: str | None
    first: bool

    @property
    def wide(self) -> bool:
        """Whether it takes the whole width."""
        return len(self.names) > MANY_NAMES


@dataclass(frozen=True)
class Answers:
    """A prompt with the cards that stand open and those behind a fold."""

    prompt: str | None
    open: list[Card]
    folded: list[Card]


def side_by_side(sample: Sample, rows: Sequence[Row], float_name: str, chosen: str | None) -> Answers:
    """One sample as the page shows it.

    Args:
        sample: the prompt and its answers.
        rows: the report's rows, in the order of its tables.
        float_name: "float model" or "float student".
        chosen: the label of the row that the verdict is about; it and its twin, rounded or recovered, are shown first,
            or those of the first mix where it has none.
    """
    by_label = {row.label: row for row in rows}
    kinds = {label: label for label in sample.answers if label in SHAPES}  # "teacher" may have answered without a row
    kinds |= {row.label: row.kind for row in rows}
    labels = [label for label in sample.answers if label not in by_label]
    labels += [row.label for row in rows if row.label in sample.answers]
    base = next((label for label in labels if kinds.get(label) == "float"), None)
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(sample.answers[label], []).append(label)
    first = _first_labels(rows, by_label.get(chosen or ""), kinds)
    cards = []
    for text, names in groups.items():
        marked, note = escape(visible(text)), None
        if base is not None and base not in names and kinds.get(names[0]) != "teacher":
            marked, note = differences(sample.answers[base], text)
        if base in names and len(names) > 1:
            note = f"the same, word for word, as the {float_name}"
        pairs = [(name, kinds.get(name, "other")) for name in names]
        cards.append(Card(pairs, marked, note, not first.isdisjoint(names)))
    if len(cards) <= FIRST_SHOWN:
        return Answers(sample.prompt, cards, [])
    return Answers(sample.prompt, [card for card in cards if card.first], [card for card in cards if not card.first])


def differences(reference: str, text: str) -> tuple[Markup, str]:
    """The text with every word marked that the reference doesn't have at that place, and where the first difference
    is.
    """
    before, after = WORDS.findall(visible(reference)), WORDS.findall(visible(text))
    place = min(len(before), len(after))
    for index, (old, new) in enumerate(zip(before, after, strict=False)):
        if old != new:
            place = index
            break
    word = sum(not part.isspace() for part in after[:place]) + 1
    changed = _changed(before, after, place)
    out = Markup("")
    for is_new, run in groupby(zip(changed, after, strict=True), key=lambda pair: pair[0]):
        words = "".join(part for _, part in run)
        out += Markup("<mark>{}</mark>").format(words) if is_new else escape(words)
    return out, f"differs from word {word} on"


def _first_labels(rows: Sequence[Row], chosen: Row | None, kinds: dict[str, str]) -> set[str]:
    """Labels that are shown first: of the teacher, the float model, and the chosen mix.

    Where the model as given is chosen, no mix is: the smallest file then, in which the losses are largest.
    """
    packed = [row.mix for kind in ("recovered", "rounded") for row in rows if row.kind == kind]
    mix = (chosen.mix if chosen else None) or next(iter(packed), None)
    first = {label for label, kind in kinds.items() if kind in ("teacher", "float")}
    return first | {row.label for row in rows if mix is not None and row.mix == mix}


def _changed(before: Sequence[str], after: Sequence[str], place: int) -> list[bool]:
    """Of each part of `after`, whether it is marked; the two differ from `place` on."""
    changed = [False] * len(after)
    if max(len(before), len(after)) > LONGEST:
        changed[place:] = [True] * (len(after) - place)
    else:
        for tag, _, _, start, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            if tag != "equal":
                changed[start:end] = [True] * (end - start)
    # A space is marked only between two marked words, so that one mark goes through them; a mark ends with its line.
    for index, part in enumerate(after):
        if part.isspace():
            inside = 0 < index < len(after) - 1 and "\n" not in part
            changed[index] = inside and changed[index - 1] and changed[index + 1]
    return changed
