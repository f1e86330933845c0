"""New models with a teacher's tokenizer: tables against numpy's singular values, the rest against transformers."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgedistill.config.students.new import ConfigStudent
from edgedistill.facts import EMBEDDING, HEAD
from edgedistill.families import FAMILIES
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model, load_tensors
from edgedistill.models.students.build import build_student
from edgedistill.models.students.new import projected
from edgedistill.models.students.origin import Origin
from edgedistill.progress import QuietProgress
from tests.tiny import make_tiny

IDS = torch.arange(3, 63).view(1, 60)
SIZES = {"layers": 2, "width": 32, "ffn": 64, "heads": 2, "kv_heads": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_model_is_transformers_own_but_for_its_tables(family, tmp_path):
    teacher = make_tiny(family, tmp_path / "teacher")
    shape = read_shape(teacher)
    # Where heads times their size are the width, two heads of 16 make 32.
    student = ConfigStudent(**SIZES, seed=7)
    student.check("recipe r", "T", shape)
    build_student(student, Origin(teacher, "S"), tmp_path / "student", QuietProgress())
    found = read_shape(tmp_path / "student")
    assert found == student.shape(shape)
    assert (found.layers, found.width, found.ffn, found.heads, found.kv_heads) == (2, 32, 64, 2, 1)

    model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "student", dtype=torch.float32, output_loading_info=True
    )
    assert {key: list(names) for key, names in info.items()} == dict.fromkeys(info, [])
    torch.manual_seed(7)
    own = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "student"))
    tables = load_tensors(teacher, [EMBEDDING, HEAD])
    expected = own.state_dict()
    for name, value in model.state_dict().items():
        if name not in (EMBEDDING, HEAD):
            assert torch.equal(value, expected[name]), name
            continue
        wide = tables[EMBEDDING if shape.tied else name].double().numpy()
        _, _, directions = np.linalg.svd(wide, full_matrices=False)
        narrow = wide @ directions[:32].T
        ratio = np.sqrt((wide**2).mean() / (narrow**2).mean())
        if family == "gemma3_text":  # which multiplies the table by the root of its width
            ratio *= (shape.width / 32) ** 0.5
        # A direction has no sign of its own.
        assert np.allclose(np.abs(value.numpy()), np.abs(narrow * ratio), atol=1e-4), name
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "student")(IDS).logits, model.eval()(IDS).logits)
    identity = json.loads((tmp_path / "student" / "student.json").read_text())
    assert (identity["kind"], identity["new_tables"]) == ("config", True)


def test_a_projection_keeps_the_products_of_words_as_well_as_so_few_columns_can():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(200, 4, generator=generator) @ torch.randn(4, 24, generator=generator)
    narrow = projected(table, 4)
    # The table has rank 4, so nothing is lost but its scale.
    scale = (table.square().mean() / narrow.square().mean()).item()
    assert scale == pytest.approx(1, rel=1e-5)
    ratio = (table @ table.T) / (narrow @ narrow.T)
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-2)
    assert torch.equal(projected(table, 4), narrow)
    assert (projected(table, 24).T @ projected(table, 24)).fill_diagonal_(0).abs().max() < 1e-3
    with pytest.raises(ValueError, match="a table of 24 columns has no 25 directions"):
        projected(table, 25)


def test_the_seed_decides_what_begins_at_random(tiny_llama, tmp_path):
    before = torch.random.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        student = ConfigStudent(**{**SIZES, "kv_heads": None}, seed=seed).decided(read_shape(tiny_llama), 32)
        assert student.kv_heads == 1
        build_student(student, Origin(tiny_llama, "S"), tmp_path / name, QuietProgress())
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert torch.equal(torch.random.get_rng_state(), before)
