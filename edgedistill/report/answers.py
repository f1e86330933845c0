"""Answers to one prompt side by side: equal ones share one text, and words that the float model didn't write at that
place are marked.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any

from markupsafe import Markup, escape

from edgedistill.report.charts import SHAPES
from edgedistill.show import visible

WORDS = re.compile(r"\s+|[^\s]+")
LONGEST = 1500  # words; beyond, only the first difference is looked for: comparing takes the square of the length
MANY_NAMES = 4  # a text of more files stands over the whole width, its names side by side
FIRST_SHOWN = 6  # answers that stand open; the others are behind a fold

Row = Mapping[str, Any]


def side_by_side(sample: Mapping[str, Any], rows: Sequence[Row], float_name: str, chosen: str | None) -> dict[str, Any]:
    """One sample for the template.

    Args:
        sample: {prompt, answers: {label: text}}.
        rows: the report's rows, in the order of its tables.
        float_name: "float model" or "float student".
        chosen: the label of the row that the verdict is about; it and its twin, rounded or recovered, are shown first,
            or those of the first mix where it has none.
    Returns:
        prompt; open and folded: lists of {names: [(label, kind)], text: Markup, note, wide}.
    """
    answers = {str(label): text for label, text in (sample.get("answers") or {}).items()}
    own = {row["label"]: row["kind"] for row in rows}
    kinds = {
        **{label: label for label in answers if label in SHAPES},
        **own,
    }  # "teacher" may have answered without a row
    mixes = {row["label"]: row["mix"] for row in rows}
    labels = [label for label in answers if label not in own] + [
        row["label"] for row in rows if row["label"] in answers
    ]
    base = next((label for label in labels if kinds.get(label) == "float"), None)
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(str(answers[label]), []).append(label)
    # Where the model as given is chosen, no mix is: the smallest file then, in which the losses are largest.
    packed = [row["mix"] for kind in ("recovered", "rounded") for row in rows if row["kind"] == kind]
    mix = (mixes.get(chosen) if chosen else None) or next(iter(packed), None)
    cards = []
    for text, names in groups.items():
        reference = (
            answers[base] if base is not None and base not in names and kinds.get(names[0]) != "teacher" else None
        )
        marked, note = differences(str(reference), text) if reference is not None else (escape(visible(text)), None)
        if base in names and len(names) > 1:
            note = f"the same, word for word, as the {float_name}"
        mine = [mixes.get(name) for name in names]
        first = any(kinds.get(name) in ("teacher", "float") for name in names) or (mix is not None and mix in mine)
        card = {"names": [(name, kinds.get(name, "other")) for name in names], "text": marked, "note": note}
        cards.append({**card, "first": first, "wide": len(names) > MANY_NAMES})
    shown = [card for card in cards if card["first"]] if len(cards) > FIRST_SHOWN else cards
    folded = [card for card in cards if not any(card is other for other in shown)]
    return {"prompt": sample.get("prompt"), "open": shown, "folded": folded}


def differences(reference: str, text: str) -> tuple[Markup, str]:
    """The text with every word marked that the reference doesn't have at that place, and where the first difference
    is.
    """
    before, after = WORDS.findall(visible(reference)), WORDS.findall(visible(text))
    place = next(
        (index for index, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    word = sum(not part.isspace() for part in after[:place]) + 1
    note = f"differs from word {word} on"
    new = [False] * len(after)
    if max(len(before), len(after)) > LONGEST:
        new[place:] = [True] * (len(after) - place)
    else:
        for tag, _, _, start, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            if tag != "equal":
                new[start:end] = [True] * (end - start)
    # A space is marked only between two marked words, so that one mark goes through them; a mark ends with its line.
    for index, part in enumerate(after):
        if part.isspace():
            new[index] = "\n" not in part and 0 < index < len(after) - 1 and new[index - 1] and new[index + 1]
    out = Markup("")
    for changed, run in groupby(zip(new, after, strict=True), key=lambda pair: pair[0]):
        words = "".join(part for _, part in run)
        out += Markup("<mark>{}</mark>").format(words) if changed else escape(words)
    return out, note
