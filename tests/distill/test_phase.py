"""A phase of training in float, on tiny real models: what it reads, what it minimises, what it leaves."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from edgedistill.config.block_terms import RelationsTerm, StatesTerm
from edgedistill.config.loss import DivergenceTerm, TextTerm
from edgedistill.config.phase import Phase
from edgedistill.config.students.depth import DepthStudent
from edgedistill.config.students.new import ConfigStudent
from edgedistill.config.students.same import SameStudent
from edgedistill.config.students.width import WidthStudent
from edgedistill.data.example import Example
from edgedistill.distill.phase import BY_TEACHER, BY_TEXT, TrainingText, distill, summed_loss
from edgedistill.distill.step import BlockTarget
from edgedistill.errors import InputError
from edgedistill.losses.of_terms import Pairing, block_objective
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.identity import read_identity
from edgedistill.models.layer_map import read_layer_map
from edgedistill.models.load import load_model
from edgedistill.models.shared_rows import shared_rows
from edgedistill.models.students.build import build_student
from edgedistill.models.students.origin import Origin
from edgedistill.progress import QuietProgress
from edgedistill.train.live import live_blocks
from tests.kills import Killed
from tests.tiny import make_tiny

K, SEQ = 6, 32


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("teacher") / "llama", num_hidden_layers=3)


@pytest.fixture(scope="module")
def examples(teacher: Path) -> list[Example]:
    return examples_of(teacher)


def examples_of(teacher: Path, count: int = 6) -> list[Example]:
    """Random texts with the teacher's likeliest tokens, by transformers; odd weights, the first two tokens unkept."""
    model = AutoModelForCausalLM.from_pretrained(teacher)
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        tokens = torch.randint(3, 400, (24,), dtype=torch.int32)
        weight = torch.tensor([0.0, 0.0, *([1.0, 0.5] * 11)[:21]], dtype=torch.float16)
        with torch.no_grad():
            top = torch.log_softmax(model(tokens.long()[None]).logits[0, 2:-1].float(), -1).topk(K)
        made.append(Example(tokens, weight, {"ids": top.indices.int(), "log_probs": top.values.half()}))
    return made


def phase_of(*loss, **changes) -> Phase:
    settings = {"tokens": 256, "seq_len": SEQ, "batch_tokens": 64, "learning_rate": 3e-3, "compute": "float32"}
    return Phase(**settings | {"loss": loss} | changes) if loss else Phase(**settings | changes)


def text_of(examples: list[Example]) -> TrainingText:
    return TrainingText({"written": examples[:4]}, {"written": examples[4:]})


def student_of(teacher: Path, folder: Path, layers: int = 2) -> Path:
    origin = Origin(teacher, "tiny 2 layers", "mit", "Do what you like.", [torch.arange(3, 90)])
    folder.mkdir()
    build_student(DepthStudent(layers=layers), origin, folder, QuietProgress())
    return folder


def test_the_initial_student_is_the_teachers_layers_and_says_what_it_is(teacher: Path, tmp_path: Path):
    student = student_of(teacher, tmp_path / "student")
    layers = json.loads((student / "layers.json").read_text())
    assert layers["kept"] == [0, 2]
    assert len(layers["influence"]) == 3
    theirs, ours = load_file(teacher / "model.safetensors"), load_file(student / "model.safetensors")
    for name, value in ours.items():
        original = name.replace("layers.1.", "layers.2.")
        assert torch.equal(value, theirs[original]), name
    identity = read_identity(student)
    assert (identity.name, identity.license, identity.kind) == ("tiny 2 layers", "mit", "depth")
    assert (student / "LICENSE").read_text() == "Do what you like."
    assert AutoModelForCausalLM.from_pretrained(student).config.num_hidden_layers == 2


def test_the_same_student_is_the_teacher(teacher: Path, tmp_path: Path):
    build_student(SameStudent(), Origin(teacher, "tiny"), tmp_path, QuietProgress())
    theirs, ours = load_file(teacher / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert set(theirs) == set(ours)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert read_identity(tmp_path).license is None
    assert not (tmp_path / "LICENSE").exists()


@pytest.mark.parametrize(
    "loss",
    [
        (DivergenceTerm(kl="forward", weight=0.9), TextTerm(text=True, weight=0.1)),
        (DivergenceTerm(kl="jsd", temperature=2.0), DivergenceTerm(kl="reverse", weight=0.2)),
    ],
)
def test_a_phase_comes_nearer_to_the_teacher(teacher: Path, examples, tmp_path: Path, loss):
    student = student_of(teacher, tmp_path / "student")
    work = tmp_path / "distill"
    work.mkdir()
    distill(student, text_of(examples), phase_of(*loss), work, QuietProgress())
    curve = json.loads((work / "curve.json").read_text())
    assert curve["best"]["kl"] < curve["start"]["kl"]
    before, after = load_file(student / "model.safetensors"), load_file(work / "model.safetensors")
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert "model.embed_tokens.weight" not in moved
    assert "model.layers.1.mlp.up_proj.weight" in moved
    assert read_identity(work) == read_identity(student)
    assert (work / "layers.json").read_bytes() == (student / "layers.json").read_bytes()
    assert not (work / "training").exists()


def test_the_text_alone_needs_no_signal(teacher: Path, examples, tmp_path: Path):
    bare = [Example(example.tokens, example.weight) for example in examples]
    student = student_of(teacher, tmp_path / "student")
    work = tmp_path / "distill"
    work.mkdir()
    distill(student, text_of(bare), phase_of(TextTerm(text=True)), work, QuietProgress())
    curve = json.loads((work / "curve.json").read_text())
    model = load_model(student)
    total, weights = summed_loss(model, bare[4:], BY_TEXT, SEQ)
    assert curve["start"]["kl"] == pytest.approx(total / weights, rel=1e-5)


def test_validation_is_the_weighted_mean_in_a_float64_loop(teacher: Path, examples, tmp_path: Path):
    """Against transformers: grouped outcomes and cross-entropy, position by position."""
    student = student_of(teacher, tmp_path / "student")
    model = AutoModelForCausalLM.from_pretrained(student)
    kl, text, weights = 0.0, 0.0, 0.0
    for example in examples:
        with torch.no_grad():
            log_q = torch.log_softmax(model(example.tokens.long()[None]).logits[0].double(), -1)
        for row, position in enumerate(example.positions.tolist()):
            weight = float(example.weight[position])
            ids = example.signal["ids"][row].long()
            log_p = example.signal["log_probs"][row].double()
            tail_p, tail_q = 1 - log_p.exp().sum(), 1 - log_q[position, ids].exp().sum()
            value = (log_p.exp() * (log_p - log_q[position, ids])).sum() + tail_p * (tail_p / tail_q).log()
            kl += weight * float(value)
            text -= weight * float(log_q[position, example.tokens[position + 1]])
            weights += weight
    for objective, expected in ((BY_TEACHER, kl), (BY_TEXT, text)):
        total, counted = summed_loss(load_model(student), examples, objective, SEQ)
        assert counted == pytest.approx(weights)
        assert total / counted == pytest.approx(expected / weights, rel=1e-4)


def test_two_phases_go_on_from_each_other(teacher: Path, examples, tmp_path: Path):
    student = student_of(teacher, tmp_path / "student")
    first, second = tmp_path / "distill", tmp_path / "distill-2"
    for work in (first, second):
        work.mkdir()
    text = text_of(examples)
    distill(student, text, phase_of(), first, QuietProgress())
    distill(first, text, phase_of(TextTerm(text=True)), second, QuietProgress(), "distill-2")
    curve = json.loads((second / "curve.json").read_text())
    total, weights = summed_loss(load_model(first), examples[4:], BY_TEXT, SEQ)
    assert curve["start"]["kl"] == pytest.approx(total / weights, rel=1e-5)
    assert curve["verdict"].startswith("cross-entropy on validation text")
    assert curve["stage"] == "distill-2"
    assert read_identity(second).name == "tiny 2 layers"


def padded(teacher: Path, folder: Path, rows: int) -> Path:
    """The same words, and other padding rows: what the rows behind the last word hold is arbitrary."""
    model = AutoModelForCausalLM.from_pretrained(teacher)
    torch.manual_seed(5)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    for file in teacher.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    for file in teacher.glob("chat_template*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("more", [-3, 9])
def test_a_teacher_with_other_padding_rows_teaches(teacher: Path, tmp_path: Path, more: int):
    """Qwen2.5's case: one tokenizer, tables of other lengths. The teacher may even think of padding."""
    rows = AutoModelForCausalLM.from_pretrained(teacher).config.vocab_size
    other = padded(teacher, tmp_path / "other", rows + more)
    assert shared_rows(other, teacher) == min(rows, rows + more)
    examples = examples_of(other)
    for example in examples[:3]:
        example.signal["ids"][0, 0] = rows + more - 1  # the likeliest
    student = student_of(teacher, tmp_path / "student")
    work = tmp_path / "distill"
    work.mkdir()
    loss = (DivergenceTerm(kl="forward", weight=0.9), DivergenceTerm(kl="reverse", temperature=2.0, weight=0.1))
    distill(student, text_of(examples), phase_of(*loss), work, QuietProgress())
    curve = json.loads((work / "curve.json").read_text())
    assert curve["best"]["kl"] < curve["start"]["kl"]


def test_other_words_are_refused(teacher: Path, tmp_path: Path):
    other = padded(teacher, tmp_path / "other", AutoModelForCausalLM.from_pretrained(teacher).config.vocab_size)
    data = json.loads((other / "tokenizer.json").read_text())
    names = {index: token for token, index in data["model"]["vocab"].items()}
    vocab = data["model"]["vocab"]
    vocab[names[300]], vocab[names[301]] = 301, 300
    (other / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"words of the teacher .* differ \(id 300 is '.*' and '.*'\)"):
        shared_rows(teacher, other)


BLOCK_TERMS = (
    StatesTerm(states="cosine", weight=0.5),
    StatesTerm(states="mse", layers=(1, 2), weight=0.1),
    RelationsTerm(relations=("qq", "kk", "vv"), layer=1, weight=0.2),
)


def target_of(student: Path, teacher: Path) -> BlockTarget:
    shapes = read_shape(student), read_shape(teacher)
    layers = read_layer_map(student, shapes[0].layers, shapes[1].layers)
    objective = block_objective(BLOCK_TERMS, Pairing(*shapes, layers.state, layers.block))
    return BlockTarget(objective, live_blocks(teacher, objective.teacher, torch.float32))


def test_a_phase_comes_nearer_inside_too(teacher: Path, examples, tmp_path: Path):
    """With terms that look inside alone; states after all blocks come nearer to the teacher's, by transformers."""
    student, work = student_of(teacher, tmp_path / "student"), tmp_path / "distill"
    work.mkdir()
    text = TrainingText({"written": examples[:4]}, {"written": examples[4:]}, "distill", target_of(student, teacher))
    distill(student, text, phase_of(*BLOCK_TERMS, tokens=512), work, QuietProgress())

    def distance(folder: Path) -> float:
        ours, theirs = (AutoModelForCausalLM.from_pretrained(each) for each in (folder, teacher))
        total = 0.0
        for example in examples[:4]:
            with torch.no_grad():
                states = [
                    model(example.tokens.long()[None], output_hidden_states=True).hidden_states[-1][0]
                    for model in (ours, theirs)
                ]
            total += float(1 - torch.cosine_similarity(*states, dim=-1).mean())
        return total

    assert distance(work) < 0.9 * distance(student)
    assert json.loads((work / "curve.json").read_text())["verdict"].startswith("cross-entropy")


@pytest.mark.parametrize("after", [2, 3, 4])
def test_a_killed_phase_with_projections_ends_with_the_same_bytes(examples, teacher: Path, tmp_path: Path, after: int):
    """A narrower student: its projections are trained, kept in checkpoints and not in what ships."""
    narrow = make_tiny("llama", tmp_path / "narrow", seed=3, num_hidden_layers=2, hidden_size=48, head_dim=16)
    student = tmp_path / "student"
    student.mkdir()
    build_student(SameStudent(), Origin(narrow, "narrow", "mit"), student, QuietProgress())
    phase = phase_of(*BLOCK_TERMS, TextTerm(text=True), checkpoint_seconds=1e-6)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for work in (whole, killed):
        work.mkdir()

    def run(work: Path, progress: QuietProgress) -> None:
        text = TrainingText(
            {"written": examples[:4]}, {"written": examples[4:]}, "distill", target_of(student, teacher)
        )
        distill(student, text, phase, work, progress)

    run(whole, QuietProgress())
    with pytest.raises(KeyboardInterrupt):
        run(killed, Killed(after, reports=True))
    saved = load_file(killed / "training" / "checkpoint" / "weights.safetensors")
    assert saved["projection.2-3"].shape == (64, 48)
    run(killed, QuietProgress())
    for name in ("model.safetensors", "curve.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    assert not any("projection" in name for name in load_file(whole / "model.safetensors"))


@pytest.mark.parametrize("tied", [True, False])
def test_tables_that_are_not_the_teachers_are_trained_too(tied: bool, tmp_path: Path):
    teacher = make_tiny("llama", tmp_path / "teacher", num_hidden_layers=3, tie_word_embeddings=tied)
    shape, examples = read_shape(teacher), examples_of(teacher)
    text = TrainingText({"written": examples}, {"written": examples})  # random text: nothing else can be learned of it
    sizes = {"layers": 2, "width": 32, "ffn": 32, "heads": 2}
    cases = ((ConfigStudent(**sizes), 1e-2), (WidthStudent(width=32), 3e-3))
    for number, (kind, rate) in enumerate(cases):
        student, work = tmp_path / f"student {number}", tmp_path / f"distill {number}"
        student.mkdir()
        work.mkdir()
        origin = Origin(teacher, "S", texts=[torch.arange(3, 90)])
        build_student(kind.decided(shape, 32), origin, student, QuietProgress())
        assert read_identity(student).new_tables
        distill(student, text, phase_of(tokens=1024, learning_rate=rate), work, QuietProgress())
        before, after = load_file(student / "model.safetensors"), load_file(work / "model.safetensors")
        moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert "model.embed_tokens.weight" in moved
        assert ("lm_head.weight" in moved) is not tied
        assert read_identity(work) == read_identity(student)
        curve = json.loads((work / "curve.json").read_text())
        assert curve["best"]["kl"] < curve["start"]["kl"]
