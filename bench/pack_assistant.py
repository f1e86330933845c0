"""The rows of the recipe `assistant`: requests of Snips' benchmark in ordinary words, answered by intent and slots.

Run    python bench/pack_assistant.py      (EDGEDISTILL_DATA names the folder of the data sets)
Writes recipes/assistant-learn.jsonl and recipes/assistant-test.jsonl, the same bytes from the same data: as many
       requests of each of the seven intents, in turn, none of which is in both files.
"""

import itertools
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.narrow_task import SYSTEM, snips  # noqa: E402
from edgedistill.config.prompt_id import normalized  # noqa: E402

LEARN, TEST = 150, 30  # requests of each intent


def chosen(rows: list[dict[str, object]], known: set[str], count: int) -> list[dict[str, object]]:
    """The first `count` requests of each intent that aren't known, the intents in turn."""
    by_intent: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        words = normalized(str(row["prompt"]))
        if words in known:
            continue
        known.add(words)
        by_intent.setdefault(str(dict(row["answer"])["intent"]), []).append(row)  # type: ignore[call-overload]
    return list(itertools.chain.from_iterable(zip(*(each[:count] for each in by_intent.values()), strict=True)))


def main() -> None:
    """Write both files."""
    known: set[str] = set()
    for name, split, count in (("learn", "train", LEARN), ("test", "test", TEST)):
        rows = [{"system": SYSTEM["snips"], **row} for row in chosen(list(snips(split)), known, count)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path = ROOT / "recipes" / f"assistant-{name}.jsonl"
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path}: {len(rows)} rows\n")


if __name__ == "__main__":
    main()
