"""The bundle's README.md and LICENSE: what the model is, how it measured, how to run it. Text from models is escaped.

The two programs in it are run by the tests as they stand there.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedistill.bundle.names import split_key
from edgedistill.records import DASH, show, visible

LLAMA = '''from llama_cpp import Llama

model = Llama(model_path="{file}", n_ctx=2048, verbose=False)
answer = model.create_chat_completion([{{"role": "user", "content": "What is the capital of France?"}}], max_tokens=64)
print(answer["choices"][0]["message"]["content"])
'''

ONNX = '''import numpy as np
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
session = onnxruntime.InferenceSession("{model}", providers=["CPUExecutionProvider"])
types = {{"tensor(float)": np.float32, "tensor(float16)": np.float16}}
cache = {{
    past.name: np.zeros((1, past.shape[1], 0, past.shape[3]), types[past.type])
    for past in session.get_inputs()
    if past.name.startswith("past_key_values.")
}}
names = [output.name for output in session.get_outputs()]

chat = [{{"role": "user", "content": "What is the capital of France?"}}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
new = tokenizer(prompt, add_special_tokens=False)["input_ids"]
seen, answer = 0, []
while len(answer) < 64:
    seen += len(new)
    feed = {{"input_ids": np.array([new], np.int64), "attention_mask": np.ones((1, seen), np.int64), **cache}}
    out = dict(zip(names, session.run(None, feed)))
    token = int(out["logits"][0, -1].argmax())
    if token == tokenizer.eos_token_id:
        break
    answer.append(token)
    new, cache = [token], {{name: out[name.replace("past_key_values.", "present.")] for name in cache}}
print(tokenizer.decode(answer))
'''


def model_card(report: Mapping[str, Any], name: str, folder: Path, placed: Mapping[str, Path], hashes: Mapping[str, str]) -> str:
    """README.md: facts, files, measured figures, two programs that run it.

    Args:
        placed: where each artifact lies in `folder`, by gguf-MIX or onnx-MIX.
        hashes: SHA-256 of each model file, by its path in the folder.
    """
    teacher, student, target = report["teacher"], report["student"], report["target"]
    how = "quantization-aware-training" if student.get("as_is") else "distillation"
    front = {
        "license": _word(report["provenance"].get("license")) or "unknown",
        "base_model": visible(teacher.get("name") or DASH, lines=False),
        "pipeline_tag": "text-generation",
        "tags": ["edgedistill", how, *sorted({split_key(key)[0] for key in placed})],
    }
    sizes = [] if student.get("as_is") else [
        f"The teacher has {show(teacher.get('parameters'), 'count')} weights in {teacher.get('layers') or DASH} layers, "
        f"this student {show(student.get('parameters'), 'count')} in {student.get('layers') or DASH}."
    ]
    source = f"{_text(teacher.get('name'))} ({_text(teacher.get('source'))})"
    what = f"{source}, trained on the number grid of its file" if student.get("as_is") else f"A student of {source}, distilled"
    parts = [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()),
        "---",
        "",
        f"# {name}",
        "",
        f"{what} and packed for {_text(target.get('title') or target.get('name'))} by edgedistill. {' '.join(sizes)}".rstrip(),
        "",
        _text(report["verdict"]["headline"]),
        *(f"- {_text(sentence)}" for sentence in report["verdict"]["sentences"]),
        "",
        "## Files",
        "",
        "| file | size | SHA-256 |",
        "|---|---:|---|",
        *(f"| `{inner}` | {show((folder / inner).stat().st_size, 'bytes')} | `{sha256}` |" for inner, sha256 in hashes.items()),
        "",
        "`sha256sum -c SHA256SUMS` checks them all.",
        "",
        *_figures(report),
        *_programs(folder, placed),
        "## Licence",
        "",
        f"{_license_sentence(report)} See LICENSE.",
        "",
    ]
    command = report["provenance"].get("command")
    if command:
        parts += ["## How it was made", "", *_fenced(visible(command), "sh"), ""]
    return "\n".join(parts)


def license_note(report: Mapping[str, Any], full_text: str | None) -> str:
    """LICENSE: whose weights these derive from, and under which licence; the full text where it is known."""
    teacher = report["teacher"]
    lines = [
        f"The weights in this folder derive from {visible(teacher.get('name') or DASH, lines=False)}",
        f"({visible(teacher.get('source') or DASH, lines=False)}).",
        _license_sentence(report),
    ]
    return "\n".join(lines) + "\n" + (f"\n{'-' * 72}\n\n{visible(full_text)}\n" if full_text else "")


def _license_sentence(report: Mapping[str, Any]) -> str:
    found = _word(report["provenance"].get("license"))
    if not found:
        return "The teacher names no licence: ask its makers before you pass these files on."
    return f"The teacher's licence is {found}; these weights derive from it and are passed on under the same."


def _figures(report: Mapping[str, Any]) -> list[str]:
    """The measured table, on the first judge; nothing where nothing was measured."""
    if not report["rows"]:
        return []
    judge = next((judge["name"] for judge in report["judges"]), None)
    where = "on the target" if report["on_target"] else "on another machine than the target"
    machine = report["machine"]
    lines = [
        "## Measured",
        "",
        f"{where.capitalize()}: {_text(machine.get('cpu'))}, {_text(machine.get('cores'))} cores, {_text(machine.get('os'))}. "
        f"Quality on {_text(judge)}; KL is to the float {'model' if report['student'].get('as_is') else 'student'}, in nats per token; "
        "speed in tokens/s.",
        "",
        "| artifact | runtime | size | perplexity | KL | KL 99 % | same top | decode | prefill | peak RSS |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in report["rows"]:
        quality, speed = (row["quality"] or {}).get(judge) or {}, row["speed"]
        cells = [
            _text(row["label"]), _text(row["runtime"]), show(row["file_bytes"], "bytes"), show(quality.get("ppl"), "perplexity"),
            show(quality.get("kl_student_mean"), "nats per token"), show(quality.get("kl_student_p99"), "nats per token"),
            show(quality.get("top1_student"), "share"), show((speed.get("decode_tokens_per_s") or {}).get("mean")),
            show((speed.get("prefill_tokens_per_s") or {}).get("mean")), show(speed.get("peak_rss_bytes"), "bytes"),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _programs(folder: Path, placed: Mapping[str, Path]) -> list[str]:
    """How to run the first GGUF and the first ONNX folder from Python, in this folder."""
    lines: list[str] = []
    gguf = next((path for key, path in placed.items() if split_key(key)[0] == "gguf"), None)
    onnx = next((path for key, path in placed.items() if split_key(key)[0] == "onnx"), None)
    if gguf:
        lines += ["## Run it with llama-cpp-python", "", *_fenced(LLAMA.format(file=gguf.name), "python"), ""]
    model = next((path for path in sorted(onnx.rglob("*.onnx"))), None) if onnx else None
    if onnx and model:
        program = ONNX.format(folder=onnx.name, model=model.relative_to(folder).as_posix())
        lines += ["## Run it with onnxruntime", "", *_fenced(program, "python"), ""]
    return lines


def _fenced(code: str, language: str) -> list[str]:
    """A code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + language, code.rstrip("\n"), fence]


def _text(value: Any) -> str:
    """Hostile text on one line, with nothing that Markdown or HTML acts upon."""
    flat = DASH if value is None else visible(value, lines=False)
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore within a word, as in q4_0, is only itself.
    return re.sub(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)|^[#+=-]", r"\\\g<0>", flat)


def _word(value: Any) -> str:
    """A licence's identifier: letters, digits, point, dash and plus, as SPDX has them; all else dropped."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", str(value)).strip("-")[:60] if value else ""
