"""Which cut of a model loses least at equal size: in depth, in width, or in both; before training and after it.

Run    python bench/which_cut.py FOLDER --text TEXT --judge TEXT [--shares 0.5,0.25] [--tokens 0,100000] [--out JSON]
Writes JSON (bench/results/which_cut.json by default): for each share of the weights outside of the tables and each cut
       of that size, KL to the model in nats a token and perplexity on the judge, as it is cut and after each budget of
       training tokens with the product's own distill, each budget begun anew from the cut.

The cuts: depth by influence and by contiguous layers, width by activations and by the loss's gradient, both at once.
`--student '{kind: width, ffn: 768}'` adds one, `--only 'depth; both'` leaves others out; a cut that
can't be had at a share is left out too, and said. Cuts are ranked, and students are
trained, on the first part of TEXT; JUDGE is never trained on. `--keep` leaves rows of the JSON that this run doesn't
make again. The KL is over the whole vocabulary, in float32, from the models in torch: no file is packed here.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import TypeAdapter
from torch import Tensor
from transformers import PreTrainedModel

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from edgedistill.config.phase import Phase  # noqa: E402
from edgedistill.config.students import AnyStudent, Student  # noqa: E402
from edgedistill.config.students.sizes import BLOCK, non_embedding  # noqa: E402
from edgedistill.data.example import Example  # noqa: E402
from edgedistill.distill.phase import TrainingText, distill  # noqa: E402
from edgedistill.errors import InputError  # noqa: E402
from edgedistill.facts import ModelShape, allowed_layers  # noqa: E402
from edgedistill.machine import machine_facts  # noqa: E402
from edgedistill.models.hf_folder import read_shape  # noqa: E402
from edgedistill.models.identity import IDENTITY, read_identity  # noqa: E402
from edgedistill.models.load import load_model  # noqa: E402
from edgedistill.models.students.build import build_student  # noqa: E402
from edgedistill.models.students.origin import Origin  # noqa: E402
from edgedistill.models.tokenizer import load_tokenizer  # noqa: E402
from edgedistill.progress import QuietProgress  # noqa: E402
from edgedistill.train.forward import batches, kept_hidden  # noqa: E402

OUT = Path(__file__).parent / "results" / "which_cut.json"
ANY_STUDENT: TypeAdapter[AnyStudent] = TypeAdapter(Student)
TOP_K = 64
ROWS = 128  # positions whose whole distribution is in memory at once


@dataclass(frozen=True)
class Cut:
    """A student to be compared: its name in the record and what a recipe says of it."""

    name: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Judge:
    """Held-out text and what the model says of it: its last hidden states at the kept positions, [N, D] a text."""

    examples: list[Example]
    hidden: list[Tensor]
    head: Tensor


def main() -> None:
    """Cut, judge, train and judge again, and write the record after each cut."""
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = read_shape(options.folder)
    teacher = load_model(options.folder)
    budgets = [int(word) for word in options.tokens.split(",")]
    length, seq_len = max(budgets), options.seq_len
    held_out = pieces(options.folder, options.judge, seq_len, options.judge_tokens)
    judge = judged_by(teacher, held_out, seq_len)
    ranking = pieces(options.folder, options.text, seq_len, options.ranking_tokens)
    # A share of the text is never trained on: it chooses the checkpoint.
    count = length + max(length // 8, 2 * seq_len) if length else 0
    text = with_signal(teacher, pieces(options.folder, options.text, seq_len, count)) if count else []
    at_first = perplexity_and_kl(teacher, judge, seq_len)
    del teacher
    rows = earlier_rows(options) if options.keep else []
    for share in (float(word) for word in options.shares.split(",")):
        for cut in cuts(shape, share, options):
            rows = [row for row in rows if (row["cut"], row["share"]) != (cut.name, share)]
            try:
                rows.append(row_of(cut, share, (shape, judge, ranking, text, budgets), options))
            except InputError as error:
                print(f"{share:<5} {error}", flush=True)
            write(options, shape, at_first, rows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a Hugging Face folder")
    parser.add_argument("--text", type=Path, required=True, help="what cuts are ranked and students trained on")
    parser.add_argument("--judge", type=Path, required=True, help="held-out text")
    parser.add_argument("--shares", default="0.5", help="of the weights outside of the tables")
    parser.add_argument("--tokens", default="0", help="training budgets; 0 for the cut alone")
    parser.add_argument("--ranking-tokens", type=int, default=8192)
    parser.add_argument("--judge-tokens", type=int, default=8192)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--student", action="append", default=[], help="a recipe's student, in YAML, as one more cut")
    parser.add_argument("--only", default="", help="names of cuts, with ; between them")
    parser.add_argument("--keep", action="store_true", help="leave rows of the JSON that aren't made again")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def cuts(shape: ModelShape, share: float, options: argparse.Namespace) -> list[Cut]:
    """What is compared at a share: of depths the largest that isn't larger."""
    layers = max((n for n in allowed_layers(shape) if n <= share * shape.layers), default=min(allowed_layers(shape)))
    every = [
        Cut("depth", {"kind": "depth", "layers": layers}),
        Cut("depth, contiguous", {"kind": "depth", "layers": layers, "choose": "contiguous"}),
        Cut("width", {"kind": "width", "share": share}),
        Cut("width, gradient", {"kind": "width", "share": share, "importance": "gradient"}),
        Cut("width, ffn alone", {"kind": "width", "share": share, "heads": shape.heads}),
        Cut("both", {"kind": "depth+width", "share": share}),
    ]
    every += [Cut(text, yaml.safe_load(text)) for text in options.student]
    only = {name.strip() for name in options.only.split(";") if name.strip()}
    return [cut for cut in every if not only or cut.name in only]


def row_of(
    cut: Cut,
    share: float,
    data: tuple[ModelShape, Judge, list[Example], list[Example], list[int]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """One cut made, judged, trained and judged."""
    shape, judge, ranking, text, budgets = data
    student = ANY_STUDENT.validate_python(cut.settings)
    student.check(cut.name, options.folder.name, shape)
    student = student.decided(shape, BLOCK)
    own = student.shape(shape)
    row: dict[str, Any] = {
        "cut": cut.name,
        "share": share,
        "student": cut.settings,
        "sizes": {key: getattr(own, key) for key in ("layers", "ffn", "heads", "kv_heads", "width")},
        "non_embedding": non_embedding(own),
        "share_made": non_embedding(own) / non_embedding(shape),
        "results": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder, started = Path(scratch) / "student", time.perf_counter()
        origin = Origin(options.folder, cut.name, texts=[example.tokens for example in ranking])
        build_student(student, origin, folder, QuietProgress())
        row["build_seconds"] = time.perf_counter() - started
        for tokens in budgets:
            trained, started, seconds = folder, time.perf_counter(), 0.0
            if tokens:
                trained = Path(scratch) / f"after-{tokens}"
                trained.mkdir()
                phase = Phase(tokens=tokens, seq_len=options.seq_len, learning_rate=options.rate)
                last = max(1, len(text) // 9)
                training = TrainingText({"text": text[:-last]}, {"text": text[-last:]})
                distill(folder, training, phase, trained, QuietProgress())
                seconds = time.perf_counter() - started
            kl, perplexity = perplexity_and_kl(load_model(trained), judge, options.seq_len)
            row["results"].append({"tokens": tokens, "kl": kl, "perplexity": perplexity, "train_seconds": seconds})
            made = f"{share:<5} {cut.name:20} {row['share_made']:.3f}"
            print(f"{made} {tokens:>9} tokens  KL {kl:.4f}  {perplexity:.2f}", flush=True)
    return row


def pieces(folder: Path, text: Path, seq_len: int, tokens: int) -> list[Example]:
    """The first tokens of a text in pieces of `seq_len`, every prediction of weight 1."""
    ids = load_tokenizer(folder)(text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    if len(ids) < tokens:
        raise SystemExit(f"{text}: has {len(ids)} tokens, and {tokens} are needed")
    parts = [torch.tensor(ids[at : at + seq_len], dtype=torch.int32) for at in range(0, tokens - seq_len + 1, seq_len)]
    return [Example(part, torch.ones(len(part) - 1, dtype=torch.float16)) for part in parts]


@torch.no_grad()
def with_signal(teacher: PreTrainedModel, examples: Sequence[Example]) -> list[Example]:
    """The same with the teacher's likeliest tokens, as the teach stage stores them."""
    found = []
    for example in examples:
        logits = teacher(example.tokens.long()[None], use_cache=False).logits[0, :-1]
        top = torch.log_softmax(logits.float(), -1).topk(TOP_K)
        signal = {"ids": top.indices.int(), "log_probs": top.values.half()}
        found.append(Example(example.tokens, example.weight, signal))
    return found


@torch.no_grad()
def judged_by(teacher: PreTrainedModel, examples: list[Example], seq_len: int) -> Judge:
    """The judge with the model's hidden states, which times its output matrix are its logits."""
    hidden = [kept_hidden(teacher, batch, torch.float32) for batch, _ in batches(examples, seq_len, 1)]
    return Judge(examples, hidden, teacher.get_output_embeddings().weight.detach().clone())


@torch.no_grad()
def perplexity_and_kl(model: PreTrainedModel, judge: Judge, seq_len: int) -> tuple[float, float]:
    """(mean KL from the judge's model to this one in nats a token, perplexity)."""
    head = model.get_output_embeddings().weight.detach()
    kl = surprise = 0.0
    count = 0
    for (batch, _), theirs in zip(batches(judge.examples, seq_len, 1), judge.hidden, strict=True):
        ours = kept_hidden(model, batch, torch.float32)
        for at in range(0, len(ours), ROWS):
            rows = slice(at, at + ROWS)
            reference = torch.log_softmax(theirs[rows] @ judge.head.T, -1)
            own = torch.log_softmax(ours[rows] @ head.T, -1)
            kl += (reference.exp() * (reference - own)).sum().item()
            surprise -= own.gather(-1, batch.labels[rows, None]).sum().item()
        count += len(ours)
    return kl / count, float(torch.tensor(surprise / count).exp())


def name_of(folder: Path) -> str:
    """What a model is called: by its own word where it is a student, else by its folder."""
    return read_identity(folder).name if (folder / IDENTITY).is_file() else folder.name


def earlier_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the record that there is."""
    return json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.is_file() else []


def write(
    options: argparse.Namespace, shape: ModelShape, at_first: tuple[float, float], rows: list[dict[str, Any]]
) -> None:
    """The record, with what all rows share."""
    # Files by their names: where they lie is nobody's business.
    words = [Path(word).name if Path(word).exists() else word for word in sys.argv[1:]]
    record = {
        "schema": "edgedistill.which_cut/1",
        "command": shlex.join(["python", "bench/which_cut.py", *words]),
        "model": {"name": name_of(options.folder), "non_embedding": non_embedding(shape), "layers": shape.layers},
        "perplexity": at_first[1],
        "text": options.text.name,
        "judge": options.judge.name,
        "judge_tokens": options.judge_tokens,
        "ranking_tokens": options.ranking_tokens,
        "machine": machine_facts(),
        "rows": rows,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
