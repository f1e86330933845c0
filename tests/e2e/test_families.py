"""The whole compile for models that aren't llamas, on K-quants, on a recipe's own mix and on one fitted to a size."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from edgedistill.models.gguf_file import read_header
from tests.e2e.conftest import ENVIRONMENT, RECIPE, compile_command, edgedistill
from tests.tiny import make_tiny, teach_to_talk

# Rows that divide by 256, so that K-quants are really used.
SIZES = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "initializer_range": 0.02}
OTHERS = ("mistral", "qwen2", "qwen3", "phi3", "smollm3", "granite", "olmo2")
FAMILIES = ["gemma3_text", *(pytest.param(family, marks=pytest.mark.slow) for family in OTHERS)]
CHANGES: dict[str, dict[str, object]] = {
    "gemma3_text": {"query_pre_attn_scalar": 64},
    "phi3": {
        "head_dim": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    },
    **dict.fromkeys(("qwen2", "smollm3", "granite", "olmo2"), {"head_dim": None}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_compiles_to_files_that_hold_what_was_trained(family: str, tmp_path: Path):
    teacher = teach_to_talk(
        make_tiny(family, tmp_path / "teacher", **{**SIZES, **CHANGES.get(family, {})}), 120, rate=2e-3
    )
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    recipe |= {
        "name": "families",
        "student": {"depth": 1.0},
        "mixes": ["q4_k_m", "own", "fitted"],
        "define_mixes": {
            "own": {"base": "q4_0", "rules": [{"tensors": "*.mlp.down_proj.weight", "layers": "0", "grid": "q6_k"}]},
            "fitted": {"auto": 5.5, "tokens": 64},
        },
        "export": ["gguf"],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    out = tmp_path / "run"
    done = subprocess.run(
        compile_command(teacher, out, tmp_path / "recipe.yaml"), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    proofs = report["provenance"]["verify"]
    assert [proof["differences"] for proof in proofs] == [0, 0, 0]
    files = {path.stem.rpartition("-")[2]: path for path in (out / "bundle").glob("*.gguf")}
    types = {tensor.type_name for tensor in read_header(files["q4_k_m"]).tensors.values()}
    assert {"q4_k", "q6_k"} <= types
    own = read_header(files["own"]).tensors
    assert own["blk.0.ffn_down.weight"].type_name == "q6_k"
    assert own["blk.1.ffn_down.weight"].type_name == "q4_0"
    assert edgedistill("verify", out).returncode == 0
    # The same command again computes nothing.
    again = subprocess.run(
        compile_command(teacher, out, tmp_path / "recipe.yaml"), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert again.returncode == 0
    assert again.stderr.count("complete already") >= 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "student",
    [
        {"kind": "depth+width", "layers": 3, "ffn": 64, "kv_heads": 1, "width": 32},
        {"kind": "config", "layers": 2, "width": 32, "heads": 2, "ffn": 64},
    ],
    ids=lambda student: student["kind"],
)
def test_a_student_with_tables_of_its_own_compiles(student: dict[str, object], talking_llama: Path, tmp_path: Path):
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8")) | {"name": "narrow", "student": student}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    out = tmp_path / "run"
    done = subprocess.run(
        compile_command(talking_llama, out, tmp_path / "recipe.yaml"), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert {proof["differences"] for proof in report["provenance"]["verify"]} == {0}
    assert "width 32 of 64" in report["verdict"]["lineage"]
    assert edgedistill("verify", out).returncode == 0
