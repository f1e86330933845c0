"""Adapters: what they train, what is merged, against peft's own model and plain formulas; kills; bad settings."""

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from edgedistill.config.adapter import Adapter
from edgedistill.config.loss import TextTerm
from edgedistill.config.phase import Phase
from edgedistill.distill.adapter import Adapted, GridLinear
from edgedistill.distill.phase import distill
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.quant.grids import GRIDS, decode
from tests.distill.test_phase import examples, examples_of, phase_of, student_of, teacher, text_of  # noqa: F401
from tests.tiny import make_tiny

FAMILIES = ["llama", "phi3", "gemma3_text"]


def trained(adapted: Adapted) -> None:
    """Give both matrices of each adapter values, as training would."""
    torch.manual_seed(1)
    for value in adapted.parameters.values():
        value.data.normal_(std=0.1)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 40)[None]).logits


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # of transformers, as peft reads it
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_it_is_what_peft_makes_bit_for_bit(family: str, tmp_path: Path):
    folder = make_tiny(family, tmp_path / family)
    adapter = Adapter(rank=4, alpha=6.0)
    adapted = Adapted(load_model(folder), adapter, seed=3)
    trained(adapted)
    targets = sorted({tensor.name.split(".")[-2] for tensor in adapter.matrices(read_shape(folder))})
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, lora_dropout=0.0)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    values = {f"base_model.model.{name}": value for name, value in adapted.parameters.items()}
    assert not theirs.load_state_dict(values, strict=False).unexpected_keys
    assert set(values) == {name for name, value in theirs.named_parameters() if value.requires_grad}
    expected = theirs.merge_and_unload().state_dict()
    merged = adapted.merged()
    for name, value in merged.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_before_it_is_trained_it_changes_nothing_and_its_beginning_is_the_seeds(teacher: Path):  # noqa: F811
    model = load_model(teacher)
    before = logits(model)
    state = torch.get_rng_state()
    one, other = (Adapted(load_model(teacher), Adapter(rank=2), seed) for seed in (1, 2))
    assert torch.equal(torch.get_rng_state(), state), "no other draw may depend on it"
    assert torch.equal(logits(one.model), before)
    again = Adapted(load_model(teacher), Adapter(rank=2), 1)
    pairs = [(value, again.parameters[name], other.parameters[name]) for name, value in one.parameters.items()]
    assert all(torch.equal(value, same) for value, same, _ in pairs)
    assert any(not torch.equal(value, different) for value, _, different in pairs)


def test_a_base_in_four_bits_is_what_ggml_rounds_to_and_gradients_go_through_it(teacher: Path):  # noqa: F811
    plain = load_model(teacher)
    weight = plain.model.layers[0].mlp.up_proj.weight.detach().clone()
    rounded = decode(GRIDS["q4_0"], GRIDS["q4_0"].encode(weight))
    layer = GridLinear(plain.model.layers[0].mlp.up_proj)
    assert torch.equal(layer.weight, rounded)
    assert layer.packed.numel() * layer.packed.element_size() == weight.numel() * 18 // 32
    x = torch.randn(5, weight.shape[1], requires_grad=True)
    y = torch.nn.functional.linear(x.detach(), rounded, layer.bias)
    assert torch.equal(layer(x), y)
    grad = torch.randn_like(y)
    layer(x).backward(grad)
    assert torch.allclose(x.grad, (grad.double() @ rounded.double()).float(), atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_a_phase_trains_it_alone_and_leaves_a_whole_student(kind, teacher, examples, tmp_path):  # noqa: F811
    student = student_of(teacher, tmp_path / "student")
    adapter = Adapter(kind=kind, rank=4, targets=("q_proj", "mlp.down_proj"))
    phase = phase_of(TextTerm(text=True), adapter=adapter)
    work = tmp_path / "work"
    work.mkdir()
    distill(student, text_of(examples), phase, work, QuietProgress())
    before, after = load_file(student / "model.safetensors"), load_file(work / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = {tensor.name for tensor in adapter.matrices(read_shape(student))}
    assert changed == matrices
    assert len(matrices) == 2 * 2
    for name in matrices:
        base = before[name]
        if kind == "qlora":
            base = decode(GRIDS["q4_0"], GRIDS["q4_0"].encode(base))
        singular = torch.linalg.svdvals((after[name] - base).double())
        assert singular[4] < 1e-6 * singular[0], "what is added has the adapter's rank"
    assert (work / "student.json").read_bytes() == (student / "student.json").read_bytes()
    assert not (work / "training").exists()


class KilledError(Exception):
    """Stands for a kill."""


def test_a_killed_training_ends_with_the_same_bytes(teacher, examples, tmp_path, monkeypatch):  # noqa: F811
    from edgedistill.train import loop

    student = student_of(teacher, tmp_path / "student")
    phase = phase_of(adapter=Adapter(rank=4), checkpoint_seconds=1e-9, tokens=512)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    distill(student, text_of(examples), phase, tmp_path / "whole", QuietProgress())
    steps, real = [], loop.AdamW.step

    def step(self, rates):
        steps.append(rates)
        if len(steps) == 5:
            raise KilledError
        real(self, rates)

    monkeypatch.setattr(loop.AdamW, "step", step)
    with pytest.raises(KilledError):
        distill(student, text_of(examples), phase, tmp_path / "killed", QuietProgress())
    assert list((tmp_path / "killed" / "training").glob("checkpoint/*"))
    distill(student, text_of(examples), phase, tmp_path / "killed", QuietProgress())
    assert 5 < len(steps) < 5 + 8, "it goes on from a checkpoint"
    for name in ("model.safetensors", "curve.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        ({"rank": 65}, r"rank is 65, above what q_proj \(128 x 64\) has; at most 64"),
        ({"targets": ["q_prj"]}, r"targets names 'q_prj', and no matrix of a layer is called so; they are down_proj, "),
        ({"targets": ["embed_tokens"]}, "no matrix of a layer is called so"),
        ({"targets": ["model.layers.7.mlp.up_proj"]}, "no matrix of a layer is called so"),
    ],
)
def test_what_a_model_cant_have_is_said(adapter: dict, why: str, teacher: Path):  # noqa: F811
    import re

    found = Adapter(**adapter).check(read_shape(teacher))
    assert found is not None
    assert re.search(why, found), found


def test_rows_that_the_grid_cant_hold_are_said(tmp_path: Path):
    folder = make_tiny("llama", tmp_path / "llama", intermediate_size=100)
    assert Adapter(kind="lora").check(read_shape(folder)) is None
    found = Adapter(kind="qlora", rank=4).check(read_shape(folder))
    assert found == (
        "kind is qlora, and down_proj has rows of 100, which q4_0 can't hold: they must be multiples of 32; take lora"
    )


def test_what_is_trained_is_counted_as_torch_counts(teacher: Path):  # noqa: F811
    adapter = Adapter(rank=4)
    adapted = Adapted(load_model(teacher), adapter, 1)
    assert adapter.parameters(read_shape(teacher)) == sum(value.numel() for value in adapted.parameters.values())
    assert Phase().adapter is None
