"""A compile in mixes of the recipe's own: by rules, and fitted to a size; a changed rule rebuilds what it changed."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from edgedistill.models.gguf_file import read_header
from tests.e2e.conftest import ENVIRONMENT, RECIPE, compile_command


def compile_with(teacher: Path, run: Path, recipe: Path, mixes: dict[str, object]) -> str:
    """Compile in these mixes, to GGUF alone; what was told on the way."""
    settings = yaml.safe_load(RECIPE.read_text())
    settings |= {"mixes": list(mixes), "define_mixes": mixes, "export": ["gguf"]}
    recipe.write_text(yaml.safe_dump(settings))
    command = compile_command(teacher, run)
    command[command.index(str(RECIPE))] = str(recipe)
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def types_of(run: Path, mix: str) -> dict[str, str]:
    (path,) = (run / "bundle").glob(f"*-{mix}.gguf")
    return {name: tensor.type_name for name, tensor in read_header(path).tensors.items()}


def test_own_mixes_ship_on_their_grids(compiled: Path, talking_llama: Path, tmp_path: Path):
    run = Path(shutil.copytree(compiled, tmp_path / "run"))  # its teacher, student and signals serve again
    small = {"base": "q4_0", "rules": [{"tensors": "*.v_proj.weight", "grid": "q8_0", "layers": "1-"}]}
    fitted = {"auto": 6.0, "grids": ["q4_0", "q8_0"], "tokens": 64}
    told = compile_with(talking_llama, run, tmp_path / "own.yaml", {"small": small, "fitted": fitted})
    assert "distill: complete already" in told
    assert "sensitivity: done" in told
    types = types_of(run, "small")
    assert [types[f"blk.{layer}.attn_v.weight"] for layer in range(3)] == ["q4_0", "q8_0", "q8_0"]
    assert types["blk.1.attn_q.weight"] == "q4_0"
    (result,) = run.glob("stages/fit-fitted-*/mix.json")
    chosen = json.loads(result.read_text())
    assert chosen["bytes"] <= chosen["allowed_bytes"]
    shipped = types_of(run, "fitted")
    assert sorted(set(shipped.values())) == ["f32", "q4_0", "q8_0"]
    assert shipped["blk.0.ffn_down.weight"] == chosen["grids"]["model.layers.0.mlp.down_proj.weight"]
    assert shipped["token_embd.weight"] == chosen["grids"]["model.embed_tokens.weight"]

    small["rules"][0]["layers"] = "2-"
    told = compile_with(talking_llama, run, tmp_path / "own.yaml", {"small": small, "fitted": {**fitted, "auto": 7.0}})
    assert "sensitivity: complete already" in told
    assert "recover-small: done" in told
    assert "fit-fitted: done" in told
    assert types_of(run, "small")["blk.1.attn_v.weight"] == "q4_0"


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (
            {"base": "q4_0", "rules": [{"tensors": "*.ffn.*", "grid": "q8_0"}]},
            "mix 'mine', rule 1: tensors: '*.ffn.*' matches none",
        ),
        (
            {"base": "q4_0", "rules": [{"tensors": "*.o_proj.*", "grid": "q6_k"}]},
            "has rows of 64 weights, and q6_k stores blocks of 256",
        ),
        ({"auto": 3.5}, "mix 'mine': auto allows"),
        ({"auto": "1 KB"}, "define_mixes.mine.auto is '1 KB'; it must be bits a weight"),
    ],
)
def test_a_mix_that_cannot_be_made_ends_before_anything_runs(
    mix: dict[str, object], words: str, talking_llama: Path, tmp_path: Path
):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        yaml.safe_dump({**yaml.safe_load(RECIPE.read_text()), "mixes": ["mine"], "define_mixes": {"mine": mix}})
    )
    command = compile_command(talking_llama, tmp_path / "run")
    command[command.index(str(RECIPE))] = str(recipe)
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
