"""The questions and requests that come along with the package, from the public test sets:
edgedistill/data/tasks/*.jsonl.

Run    python bench/pack_items.py     (EDGEDISTILL_DATA names the folder of the test sets; see bench/task_items.py)
Writes openbookqa.jsonl and requests.jsonl. The first line of each says where the items are from, under which licence,
how they were
       chosen and what was changed. The same sets give the same bytes.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.task_items import DATA, _table, openbookqa  # noqa: E402
from edgedistill.config.tasks import BUILT_IN_FOLDER, evenly  # noqa: E402

QUESTIONS, REQUESTS = 200, 60  # of questions, and of each kind of requests


def main() -> None:
    """Write both files."""
    questions = openbookqa(DATA)
    head = {
        "source": "OpenBookQA (Mihaylov et al. 2018, Allen Institute for AI), test split, as LLM-Adapters has it",
        "license": "Apache-2.0",
        "chosen": f"{QUESTIONS} of {len(questions)} questions, evenly over the file",
        "changes": "options and the answer's index taken out of the instruction's text",
    }
    items: list[dict[str, Any]] = [
        {"question": item.prompt, "options": list(item.options), "answer": item.right}
        for item in evenly(questions, QUESTIONS)
    ]
    _write("openbookqa", head, items)

    rows = _table(DATA / "xstest" / "xstest_prompts.csv")
    head = {
        "source": "XSTest (R\u00f6ttger et al. 2024), https://github.com/paul-rottger/exaggerated-safety",
        "license": "CC-BY-4.0",
        "chosen": (
            f"{REQUESTS} of the requests of each label, evenly over the file, so that all of its types are among them"
        ),
        "changes": "columns left out",
    }
    items = []
    for label in ("unsafe", "safe"):
        labelled = [row["prompt"] for row in rows if row["label"] == label]
        items += [{"request": prompt, "label": label} for prompt in evenly(labelled, REQUESTS)]
    _write("requests", head, items)


def _write(name: str, head: dict[str, Any], items: list[dict[str, Any]]) -> None:
    lines = [json.dumps(line, ensure_ascii=False) for line in ({"about": head}, *items)]
    (BUILT_IN_FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
