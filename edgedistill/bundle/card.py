"""The bundle's model card and LICENSE: what the model is, how it measured, how to run it. Text from models is escaped.

The two programs in it are run by the tests as they stand there.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from edgedistill import licences
from edgedistill.bundle.figures import figure_table, own_task_table, task_table
from edgedistill.bundle.front_matter import front_matter
from edgedistill.bundle.harmless import text, word
from edgedistill.bundle.recommended import Recommended, recommended
from edgedistill.results.order import in_order
from edgedistill.results.planned import StartFacts
from edgedistill.results.report import Report
from edgedistill.runtimes.chat_defaults import ChatDefaults
from edgedistill.show import DASH, show_bytes, show_count, show_seconds, visible
from edgedistill.store.files import files_of

LLAMA = """{imports}from llama_cpp import Llama

model = Llama(model_path="{file}", n_ctx=2048, verbose=False)
chat = [{system}{{"role": "user", "content": "What is the capital of France?"}}]
sampling = {{"temperature": {temperature:g}, "top_p": {top_p:g}, "top_k": 0, "min_p": 0.0}}
answer = model.create_chat_completion(chat, max_tokens=64, **sampling)
print(answer["choices"][0]["message"]["content"])
"""

ONNX = """{imports}import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reports to its maker unless this is set

import numpy as np
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

chat = [{system}{{"role": "user", "content": "What is the capital of France?"}}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
new = tokenizer(prompt, add_special_tokens=False)["input_ids"]
seen, answer = 0, []
while len(answer) < 64:
    seen += len(new)
    feed = {{"input_ids": np.array([new], np.int64), "attention_mask": np.ones((1, seen), np.int64), **cache}}
    out = dict(zip(names, session.run(None, feed)))
    token = int(out["logits"][0, -1].argmax())  # the likeliest each time
    if token == tokenizer.eos_token_id:
        break
    answer.append(token)
    new, cache = [token], {{name: out[name.replace("past_key_values.", "present.")] for name in cache}}
print(tokenizer.decode(answer))
"""


SYSTEM = '{"role": "system", "content": json.load(open("bundle.json", encoding="utf-8"))["system"]}, '


def model_card(
    report: Report,
    name: str,
    folder: Path,
    placed: Mapping[str, Path],
    hashes: Mapping[str, str],
    chat: ChatDefaults,
) -> str:
    """README.md and MODEL_CARD.md in the form of Hugging Face's model cards: facts, files, figures, how to run it,
    limits, licence.

    Args:
        placed: where each artifact lies in `folder`, by gguf-MIX or onnx-MIX.
        hashes: SHA-256 of each model file, by its path in the folder.
        chat: how it is asked.
    """
    recommendation = report.recommendation
    chosen = recommended(placed, report.verdict.mix)
    rows = in_order(report.rows)
    parts = [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front_matter(report, placed).items()),
        "---",
        "",
        f"# {name}",
        "",
        _summary(report),
        "",
        *([f"**{text(report.verdict.contest.sentence)}**", ""] if report.verdict.contest else []),
        *([text(report.verdict.lineage), ""] if report.verdict.lineage else []),
        f"**{text(report.verdict.headline)}**",
        *(["", f"**Warning: {text(report.verdict.warning)}**"] if report.verdict.warning else []),
        *(["", f"**{text(recommendation.sentence)}**"] if recommendation else []),
        *(["", text(recommendation.rule)] if recommendation and recommendation.rule else []),
        "",
        *(f"- {text(sentence)}" for sentence in report.verdict.sentences),
        "",
        "## Files",
        "",
        *_to_use(chosen),
        "| file | size | SHA-256 |",
        "|---|---:|---|",
        *(
            f"| `{inner}` | {show_bytes((folder / inner).stat().st_size)} | `{sha256}` |"
            for inner, sha256 in hashes.items()
        ),
        "",
        "`sha256sum -c SHA256SUMS` checks them all.",
        "",
        *own_task_table(report, rows),
        *figure_table(report, rows),
        *task_table(rows),
        *_programs(folder, chosen, chat, report.task is not None),
        *_limits(report),
        "## Licence",
        "",
        f"{_license_sentence(report)} {licences.demands(report.provenance.license)} See LICENSE.",
        "",
        *([text(taught), ""] if (taught := taught_under(report)) else []),
        *_making(report),
    ]
    return "\n".join(parts)


def _summary(report: Report) -> str:
    """What this is, of what, and for what."""
    teacher, student = report.teacher, report.student
    source = text(teacher.name)
    if teacher.source and teacher.source != teacher.name:
        source = f"{source} ({text(teacher.source)})"
    goal = f"packed for {text(report.target.title or report.target.name)} by edgedistill."
    if student.as_is:
        trained = any(row.kind == "recovered" for row in report.rows)
        return f"{source}, {'trained on' if trained else 'rounded to'} the number grid of its file and {goal}"
    sizes = (
        f" The teacher has {show_count(teacher.parameters)} weights in "
        f"{teacher.layers or DASH} layers, "
        f"this student {show_count(student.parameters)} in {student.layers or DASH}."
    )
    if report.specialised:
        sizes += " Before it taught, the teacher was trained on labelled answers; its figures are of what that left."
    if student.start is not None:
        return f"{_named(student.start)}, taught by {source} and {goal}{sizes}"
    return f"A student of {source}, distilled and {goal}{sizes}"


def license_note(report: Report, full_text: str | None) -> str:
    """LICENSE: whose weights these derive from, and under which licence; the full text where it is known."""
    origin = report.student.start or report.teacher
    source = f"\n({visible(origin.source, lines=False)})" if origin.source and origin.source != origin.name else ""
    lines = [
        f"The weights in this folder derive from {visible(origin.name or DASH, lines=False)}{source}.",
        _license_sentence(report),
        licences.demands(report.provenance.license),
    ]
    taught = taught_under(report)
    if taught is not None:
        lines += ["", taught]
    return "\n".join(lines) + "\n" + (f"\n{'-' * 72}\n\n{visible(full_text)}\n" if full_text else "")


def _license_sentence(report: Report) -> str:
    licence = word(report.provenance.license)
    start = report.student.start
    whose = "The teacher's licence" if start is None else f"The licence of {text(start.name)}"
    if not licence:
        return f"{whose} is not known."
    derive = "derive from it" if start is None else "derive from that model"
    return f"{whose} is {licence}; these weights {derive} and are passed on under the same."


def taught_under(report: Report) -> str | None:
    """What the licence of a teacher demands, beside that of the model which the weights derive from; None where both
    are one model.
    """
    licence = report.provenance.teacher_license
    if report.student.start is None or licence is None:
        return None
    known = licences.licence_of(licence)
    named = "is not known" if licence == licences.UNKNOWN else f"is {word(licence)}"
    teacher = visible(report.teacher.name or DASH, lines=False)
    sentence = f"They were trained on what {teacher} writes, whose licence {named}; its terms for that hold too."
    return f"{sentence} {known.demands}" if known else sentence


def _named(start: StartFacts) -> str:
    """A model's name and where it is from."""
    name = text(start.name)
    return name if start.source == start.name else f"{name} ({text(start.source)})"


def _programs(folder: Path, chosen: Recommended, chat: ChatDefaults, task: bool) -> list[str]:
    """How to run it: the examples that lie in the folder, then the GGUF and the ONNX folder to use from Python; `task`:
    whether the files were asked the rows of a task.
    """
    lines: list[str] = []
    examples = folder / "examples"
    programs = [file.relative_to(folder).as_posix() for file in files_of(examples)] if examples.is_dir() else []
    if programs:
        lines += [
            "## Examples",
            "",
            "`examples/README.md` says how to install and run each:",
            "",
            *(f"- `{inner}`" for inner in programs),
            "",
        ]
    lines += ["## How to ask it", "", *_asking(chat, onnx=chosen.onnx is not None), ""]
    if task:
        lines += ["The task's figures are of the likeliest token each time: for the task set the temperature to 0.", ""]
    before = {"imports": "", "system": ""}
    if chat.system is not None:
        before = {"imports": "import json\n\n", "system": SYSTEM}
    if chosen.gguf:
        program = LLAMA.format(file=chosen.gguf, temperature=chat.temperature, top_p=chat.top_p, **before)
        lines += ["## Run it with llama-cpp-python", "", *_fenced(program, "python"), ""]
    model = next((path for path in sorted((folder / chosen.onnx).rglob("*.onnx"))), None) if chosen.onnx else None
    if chosen.onnx and model:
        program = ONNX.format(**before, folder=chosen.onnx, model=model.relative_to(folder).as_posix())
        lines += ["## Run it with onnxruntime", "", *_fenced(program, "python"), ""]
    return lines


def _to_use(chosen: Recommended) -> list[str]:
    """Which of the files to use, one line; nothing where there is none."""
    gguf = f"`{chosen.gguf}` in llama.cpp and what is built on it" if chosen.gguf else ""
    onnx = f"the folder `{chosen.onnx}` in onnxruntime" if chosen.onnx else ""
    words = ", ".join(each for each in (gguf, onnx) if each)
    return [f"To use: {words}.", ""] if words else []


def _asking(chat: ChatDefaults, onnx: bool) -> list[str]:
    """Sampling and system message, as bundle.json, Modelfile and examples have them."""
    sampling = (
        f"Temperature {chat.temperature:g} and top_p {chat.top_p:g}, without another cut or a penalty: the Modelfile, "
        "the examples and `edgedistill chat` sample so."
    )
    if onnx:
        sampling += " Those on transformers.js differ: it cuts to the 50 likeliest tokens and has no top_p."
    if chat.system is None:
        return [sampling]
    fenced = _fenced(visible(chat.system), "text")
    return [sampling, "", "The model was trained with this system message before every conversation:", "", *fenced]


def _limits(report: Report) -> list[str]:
    """What the figures don't say, and what the model can't be trusted with."""
    rows, smaller = report.rows, not report.student.as_is
    limits = []
    if rows and not report.on_target:
        limits.append(f"Speed and memory were measured {text(report.where_measured)}; on the target they will differ.")
    if any(row.speed.busy for row in rows):
        limits.append("The machine was busy with other work while some speeds were measured.")
    if smaller:
        limits.append(
            "It is smaller than its teacher and learned from the teacher's writing: it knows less, and long "
            "answers may wander."
        )
    if any(row.kind == "recovered" for row in rows):
        limits.append(
            "Training on the grid followed a sample of text; on other text less of the loss may have been won back."
        )
    if not any(row.tasks or row.task for row in rows):
        limits.append(
            "No task was measured: nearness to the float weights says how much rounding changed, not how "
            "able the model is."
        )
    if not any(row.refusals for row in rows):
        limits.append("Whether it still refuses unsafe requests as its teacher does was not measured.")
    limits.append(
        "What its teacher gets wrong, or is biased in, it has inherited; test it on your own task before you "
        "rely on it."
    )
    return ["## Limits", "", *(f"- {limit}" for limit in limits), ""]


def _making(report: Report) -> list[str]:
    """The command that repeats it, what that took, and the proof that the files hold what was trained."""
    provenance = report.provenance
    lines = ["## How it was made", ""]
    if provenance.command:
        lines += [*_fenced(visible(provenance.command), "sh"), ""]
    seconds = [stage.seconds for stage in provenance.stages if stage.seconds is not None]
    if seconds:
        peak = max(stage.peak_rss_bytes or 0 for stage in provenance.stages)
        memory = f" and at most {show_bytes(peak)} of memory" if peak else ""
        lines.append(f"All stages took {show_seconds(sum(seconds))}{memory}.")
    checked = [proof for proof in provenance.verify if proof.differences is not None]
    if checked:
        blocks = sum(proof.blocks or 0 for proof in checked)
        differences = sum(proof.differences or 0 for proof in checked)
        lines.append(
            f"Each file's weights were compared with the trained checkpoint's: {show_count(blocks)} blocks, "
            f"{show_count(differences)} differences."
        )
    if provenance.versions:
        versions = (f"{text(name)} {text(version)}" for name, version in provenance.versions.items())
        lines.append(f"Versions: {', '.join(versions)}.")
    return [*lines, ""] if len(lines) > 2 else []


def _fenced(code: str, language: str) -> list[str]:
    """A code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + language, code.rstrip("\n"), fence]
