"""The tables of the README and of docs/ that show measured numbers, written from the records that they show.

Run    python bench/pages.py            writes each table between its marks, <!-- NAME --> and <!-- /NAME -->
       A test holds the page to the records, so run it after a record has changed.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill.report.recommend import recommend
from edgedistill.results.report import Report

ROOT = Path(__file__).parent.parent
GUIDES = ("recovery", "build-for-a-device", "compare-levels", "method")
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in GUIDES))
RESULTS = ROOT / "bench" / "results"
FIRST = "recovery-off-grid.json"  # the record whose model README's table shows
MOST_ROWS = 6  # of README's table
IMATRIX, FINER = "llama.cpp imatrix", "llama.cpp imatrix, q5_0 everywhere"
REPORT_PARTS = ("target", "teacher", "student", "on_target", "machine", "judges", "task_sets", "rows")

Record = Mapping[str, Any]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column left, the others right."""
    marks = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, marks, *rows))


def comparison(record: Record) -> str:
    """A table for each mix: every tool's KL and 99 % KL on each text, and its share of rounding's loss won back."""
    judges = [judge["name"] for judge in record["judges"]]
    parts = []
    for mix, by_tool in quality_of(record).items():
        if len(by_tool) < 2:
            continue  # the float model, which everything is compared with
        heads = [mix, "MB", "tokens", *(f"KL {judge}" for judge in judges), *(f"99 % {judge}" for judge in judges)]
        heads += [f"{what} won, {judges[0]}" for what in ("KL", "ppl")]
        rows = []
        for tool, by_judge in sorted(by_tool.items(), key=lambda pair: -pair[1][judges[0]]["kl"]):
            first = by_judge[judges[0]]
            rows.append(
                [
                    tool,
                    f"{first['bytes'] / 1e6:.1f}",
                    f"{first['tokens']:,}",
                    *(f"{by_judge[judge]['kl']:.4f}" for judge in judges),
                    *(f"{by_judge[judge]['kl_p99']:.3f}" for judge in judges),
                    share(first["recovered_kl"]),
                    share(first["recovered_ppl"]),
                ]
            )
        parts.append(table(heads, rows))
    return "\n\n".join(parts)


def by_text(record: Record) -> str:
    """A table for each mix: every tool's KL on each text, its highest share of the importance matrix's KL over the
    texts, and perplexity on the first text.
    """
    judges = [judge["name"] for judge in record["judges"]]
    parts = []
    for mix, tools in quality_of(record).items():
        if IMATRIX not in tools:
            continue  # the float model
        rows = []
        for tool, rows_of in sorted(tools.items(), key=lambda pair: -mean_kl(pair[1])):
            ratio = worst_ratio(rows_of, tools[IMATRIX])
            size = f"{rows_of[judges[0]]['bytes'] / 1e6:.1f}"
            kls = (f"{rows_of[judge]['kl']:.3f}" for judge in judges)
            rows.append([tool, size, *kls, f"{ratio:.2f}", f"{rows_of[judges[0]]['ppl']:.2f}"])
        heads = [mix, "MB", *judges, "worst, over imatrix", f"perplexity, {judges[0]}"]
        parts.append(table(heads, rows))
    return "\n\n".join(parts)


def quality_of(record: Record) -> dict[str, dict[str, dict[str, Record]]]:
    """A record's rows as mix -> tool -> judge -> row."""
    by_mix: dict[str, dict[str, dict[str, Record]]] = {}
    for row in record["rows"]:
        by_mix.setdefault(row["mix"], {}).setdefault(row["tool"], {})[row["judge"]] = row
    return by_mix


def mean_kl(by_judge: Mapping[str, Record]) -> float:
    """Of all texts alike."""
    return sum(row["kl"] for row in by_judge.values()) / len(by_judge)


def worst_ratio(ours: Mapping[str, Record], theirs: Mapping[str, Record]) -> float:
    """The highest quotient of two files' KLs over the texts."""
    return max(row["kl"] / theirs[judge]["kl"] for judge, row in ours.items())


def in_short(record: Record) -> str:
    """README's table: what four bits cost on the first judged text and on the worst of all texts, with at most six
    rows, and what training adds.

    Of the other tools it shows the strongest, and what a finer type everywhere does in about the same bytes; of ours
    the fit with the most training, the same with formats chosen by tensor, and the fit alone where there is room.
    """
    judge = record["judges"][0]["name"]
    tools = quality_of(record)["q4_0"]
    firsts = {tool: rows[judge] for tool, rows in tools.items()}
    others = [tool for tool in tools if not tool.startswith(("llama.cpp", "edgedistill"))]
    trained = most_trained(firsts, "edgedistill ")
    chosen = most_trained(firsts, "edgedistill auto ") or firsts.get("edgedistill auto fit")
    lines = {"llama.cpp": "rounded by llama.cpp", IMATRIX: "llama.cpp with an importance matrix"}
    if others:
        best = min(others, key=lambda tool: firsts[tool]["kl"])
        lines[best] = f"{best}, the best other tool"
    if FINER in tools:
        lines[FINER] = "`q5_0` everywhere, with an importance matrix"
    if trained:
        lines[trained["tool"]] = f"fitted by edgedistill, then trained on {trained['tokens']:,} tokens"
    if chosen:
        after = f", then trained on {chosen['tokens']:,}" if chosen["tokens"] else ""
        lines[chosen["tool"]] = f"fitted by edgedistill, formats chosen by tensor (`auto_q4_0`){after}"
    if len(lines) < MOST_ROWS:
        lines["edgedistill fit"] = "fitted by edgedistill, not trained"
    figures = []
    for tool, words in sorted(lines.items(), key=lambda line: -firsts[line[0]]["kl"]):
        row, worst = firsts[tool], max(entry["kl"] for entry in tools[tool].values())
        kls = f"{row['kl']:.3f}", f"{row['kl_p99']:.2f}", f"{worst:.3f}"
        figures.append([words, f"{row['bytes'] / 1e6:.1f} MB", *kls, f"{row['ppl']:.1f}"])
    text = table(["4-bit file", "size", "KL", "99 %", "KL, worst text", "perplexity"], figures)
    if trained:
        rounded = firsts["llama.cpp"]["kl"]
        by_fit, by_both = (100 * (1 - row["kl"] / rounded) for row in (firsts["edgedistill fit"], trained))
        text += f"\n\nOf the KL that plain rounding costs, the fit takes away {by_fit:.0f} %"
        text += f" and the training another {by_both - by_fit:.0f} points."
    return text


def most_trained(by_tool: Mapping[str, Record], prefix: str) -> Record | None:
    """The row of ours with the most tokens, among those named `prefix` and a number of tokens; None without one."""
    rows = [row for tool, row in by_tool.items() if re.fullmatch(rf"{prefix}\d+k", tool)]
    return max(rows, key=lambda row: row["tokens"], default=None)


def tasks(record: Record) -> str:
    """Multiple choice and refusals: each file's share with its 95 % interval, and paired differences from the first."""
    measured = record["tasks"]
    names = list(measured["files"][0]["tasks"])
    rows = []
    for file in measured["files"]:
        figures = [file["tasks"][name]["figures"][file["tasks"][name]["main"]] for name in names]
        rows.append(
            [
                file["file"].removesuffix(".gguf"),
                *(f"{f['share']:.3f} ({f['low']:.3f} to {f['high']:.3f})" for f in figures),
            ]
        )
    entries = measured["comparisons"]
    differences = []
    for name in entries[0]["tasks"]:
        pairs = (entry["tasks"][name] for entry in entries)
        cells = [f"{p['difference']:+.3f} ({p['low']:+.3f} to {p['high']:+.3f}), {p['verdict']}" for p in pairs]
        differences.append([f"{name}, {entries[0]['tasks'][name]['n']} items", *cells])
    heads = [
        f"{entry['second'].removesuffix('.gguf')} minus {entry['first'].removesuffix('.gguf')}" for entry in entries
    ]
    return table(["file", *names], rows) + "\n\n" + table(["", *heads], differences)


def step(record: Record) -> str:
    """Tokens/s and peak memory of a step."""
    rows = []
    for row in record["rows"]:
        against = record["q4_0_against"][row["dtype"]].get(row["variant"])
        cells = [
            f"{against[name]:.2f}" if against else ""
            for name in ("rate_ratio", "rate_ratio_with_capture", "peak_ratio")
        ]
        rows.append(
            [
                f"{row['variant']}, {row['dtype']}",
                f"{row['tokens_per_s']:.0f}",
                f"{row['peak_bytes'] / 2**20:,.0f}",
                *cells,
            ]
        )
    return table(
        ["step", "tokens/s", "peak MiB", "q4_0's rate over it", "with one capture a step", "q4_0's peak over it"], rows
    )


def study(record: Record) -> str:
    """Each variant's KL by kind of text, and its distance from the base."""
    kinds = list(record["judged_tokens"])
    base = next(row for row in record["rows"] if row["variant"] == "base")["kl"]
    rows = [
        [f"{mix}, plain rounding", "0", *(f"{kl[kind]:.4f}" for kind in kinds), ""]
        for mix, kl in record["rounded"].items()
    ]
    for row in record["rows"]:
        comparable = row["mix"] == "q4_0" and row["tokens"]
        change = sum(row["kl"][kind] / base[kind] for kind in kinds) / len(kinds) - 1
        cells = [f"{row['kl'][kind]:.4f}" for kind in kinds]
        rows.append(
            [
                row["variant"],
                f"{row['tokens']:,}",
                *cells,
                f"{change:+.1%}" if comparable and row["variant"] != "base" else "",
            ]
        )
    return table(["variant", "tokens", *(f"KL {kind}" for kind in kinds), "against base"], rows)


def demo(record: Record) -> str:
    """What `make demo` measured in llama.cpp, what fit and training won back together, and what it all took."""
    judges = [judge["name"] for judge in record["judges"]]
    rows = []
    for row in record["rows"]:
        if row["runtime"] == "llama.cpp" and row["kind"] != "teacher":
            quality = [row["quality"][judge] for judge in judges]
            figures = [f"{q['ppl']:.2f}, {q['kl_student_mean']:.4f}, {q['kl_student_p99']:.3f}" for q in quality]
            decode = row["speed"]["decode_tokens_per_s"]["mean"]
            rows.append(
                [
                    row["label"].removesuffix(", llama.cpp"),
                    f"{row['file_bytes'] / 1e6:.1f} MB",
                    f"{decode:.0f} tokens/s",
                    *figures,
                ]
            )
    heads = ["file", "size", "decode", *(f"{judge}: perplexity, KL, 99 %" for judge in judges)]
    mix, won = next(iter(record["recovered"].items()))
    parts = " and ".join(f"{100 * won[judge]['kl_share']:.0f} % ({judge})" for judge in judges)
    return (
        f"{table(heads, rows)}\n\nThe fit and training on the grid took {parts} of {mix}'s KL away, at the same "
        f"bytes. {costs(record)}"
    )


def levels(record: Record) -> str:
    """What a comparison measured: each level rounded and recovered, which files nothing beats, and which to take."""
    judges = [judge["name"] for judge in record["judges"]]
    # Today's rule on the record's rows: the record holds what the rule of its day chose.
    chosen = recommend(Report.from_json({name: record[name] for name in REPORT_PARTS}))
    rows = []
    for row in sorted(record["rows"], key=lambda row: (-round(row["file_bytes"] / 1e5), row["kind"] == "recovered")):
        label = row["label"].removesuffix(", llama.cpp")
        decode = row["speed"]["decode_tokens_per_s"]["mean"]
        kls = (f"{row['quality'][judge]['kl_student_mean']:.4f}" for judge in judges)
        is_chosen = chosen is not None and row["label"] == chosen.label
        marks = "●" * (row["label"] in record["front"]["labels"]) + "★" * is_chosen
        rows.append([label, f"{row['file_bytes'] / 1e6:.1f} MB", f"{decode:.0f}", *kls, marks])
    heads = ["file", "size", "tokens/s", *(f"KL {judge}" for judge in judges), "front"]
    sentence = chosen.sentence if chosen else "Nothing is recommended."
    return f"{table(heads, rows)}\n\n{sentence}\n\n{costs(record)}"


def costs(record: Record) -> str:
    """What a run took, and where."""
    machine, minutes, peak = record["machine"], record["total_seconds"] / 60, record["peak_rss_bytes"] / 2**30
    where = f"on {machine['cores']} cores ({machine['cpu']})"
    return f"All stages together took\n{minutes:.0f} minutes and at most {peak:.1f} GiB of memory, {where}."


def prose_memory(record: Record) -> str:
    """Peak memory of reading prose by its budget, with the teacher's signals and without."""
    by_budget: dict[int, dict[bool, Record]] = {}
    for row in record["rows"]:
        by_budget.setdefault(row["budget"], {})[row["top_k"] > 0] = row
    rows = []
    for budget, rows_of in sorted(by_budget.items()):
        cells = [f"{rows_of[signals]['peak_bytes'] / 2**20:.0f} MiB" for signals in (False, True)]
        rows.append([f"{budget:,} tokens", *cells])
    return table(["prose", "the text alone", "with the teacher's signals"], rows)


def foretold(record: Record) -> str:
    """What the plan of `make demo` predicted for its target, and what this machine measured."""
    rows = []
    for entry in record["predictions"]:
        if entry["predicted"] is not None:
            cells = [amount(entry[name], entry["unit"]) for name in ("predicted", "measured")]
            rows.append([f"{entry['mix']}, {entry['what']}", *cells, f"{entry['measured'] / entry['predicted']:.2f}"])
    return table(["", "predicted", "measured", "measured / predicted"], rows)


def amount(value: float, unit: str) -> str:
    """A size in MB, or a rate."""
    return f"{value / 1e6:.1f} MB" if unit == "bytes" else f"{value:.0f} {unit}"


def share(value: float | None) -> str:
    """A share in percent; nothing where there is none."""
    return "" if value is None else f"{value:.1%}"


SECTIONS: dict[str, tuple[str, Callable[[Record], str]]] = {
    "recovery": (FIRST, in_short),
    "by-text": (FIRST, by_text),
    "grid-by-text": ("recovery-grid.json", by_text),
    "comparison": ("recovery.json", comparison),
    "tasks": ("recovery.json", tasks),
    "step": ("trl_step.json", step),
    "study": ("study.json", study),
    "demo": ("demo.json", demo),
    "prose-memory": ("prose_memory.json", prose_memory),
    "foretold": ("demo.json", foretold),
    "levels": ("compare.json", levels),
}


def filled(page: str) -> str:
    """The page with every table that it has marks for, as the records are now."""
    for name, (file, write) in SECTIONS.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin in page:
            text = write(json.loads((RESULTS / file).read_text(encoding="utf-8")))
            before, _, rest = page.partition(begin)
            page = f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
        sys.stdout.write(f"{page}\n")
