"""Any two things that hold a model, compared: checkpoint, GGUF, ONNX, Hugging Face folder, and files that are foreign
to us.
"""

import json
import re
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from edgedistill.cli.main import cli
from edgedistill.errors import InputError
from edgedistill.export.gguf.write import write_gguf
from edgedistill.export.onnx.build import write_onnx
from edgedistill.export.pairs import compare_weights
from edgedistill.export.weights import open_weights
from edgedistill.mixes import assign_formats
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model, save_side_files
from edgedistill.quant.checkpoint import load_grid, save_grid
from edgedistill.quant.rounded import round_weights


@pytest.fixture(scope="module")
def held(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint in q4_0 and what was exported from it, and another in q8_0."""
    folder = tmp_path_factory.mktemp("pairs")
    shape = read_shape(tiny_llama)
    found = {"model": tiny_llama}
    for mix in ("q4_0", "q8_0"):
        checkpoint = folder / mix
        checkpoint.mkdir()
        shutil.copy(tiny_llama / "config.json", checkpoint)
        save_side_files(tiny_llama, checkpoint)
        save_grid(checkpoint, round_weights(load_model(tiny_llama).state_dict(), assign_formats(shape, mix), mix))
        found[mix] = checkpoint
        found[f"{mix}.gguf"] = write_gguf(
            load_grid(checkpoint), checkpoint, shape, folder / f"tiny-{mix}.gguf", {"name": "tiny"}
        )
    found["q4_0.onnx"] = write_onnx(
        load_grid(found["q4_0"]), found["q4_0"], shape, folder / "tiny-onnx", {"name": "tiny"}
    )
    return found


PAIRS = [("q4_0", "q4_0.gguf"), ("q4_0.gguf", "q4_0.onnx"), ("q4_0.onnx", "q4_0"), ("model", "model")]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_what_holds_the_same_weights_is_equal(held, first, second):
    found = compare_weights(open_weights(held[first]), open_weights(held[second]))
    assert found.equal
    assert found.sha256[0] == found.sha256[1]
    assert found.tensors == len(list(read_shape(held["model"]).tensors()))


def test_foreign_files_differ_by_so_much(held):
    found = compare_weights(open_weights(held["model"]), open_weights(held["q8_0.gguf"]))
    linear = [d for d in found.differences if "proj" in d.tensor]
    assert len(linear) == 4 * 7
    weights = {name: stored.values() for name, stored in open_weights(held["model"]).tensors.items()}
    other = {t.name: t for t in gguf.GGUFReader(held["q8_0.gguf"]).tensors}["blk.1.ffn_down.weight"]
    ours = next(d for d in linear if d.tensor == "model.layers.1.mlp.down_proj.weight")
    expected = np.abs(weights[ours.tensor] - gguf.quants.dequantize(other.data, other.tensor_type))
    assert ours.largest == pytest.approx(expected.max())
    assert ours.differing == (expected != 0).sum()
    assert 0.001 < ours.relative_error < 0.01
    assert ours.formats == ("f32", "q8_0")


def test_a_missing_tensor_is_listed(held, tmp_path):
    first = open_weights(held["q4_0"])
    fewer = {name: stored for name, stored in first.tensors.items() if name != "model.norm.weight"}
    found = compare_weights(first, type(first)(first.path, first.kind, fewer))
    assert not found.equal
    assert found.only_first == ("model.norm.weight",)


def test_an_unknown_architecture_is_compared_by_its_own_names(tmp_path):
    paths = [foreign(tmp_path / "a.gguf", 1.0), foreign(tmp_path / "b.gguf", 2.0)]
    assert compare_weights(open_weights(paths[0]), open_weights(paths[0])).equal
    found = compare_weights(open_weights(paths[0]), open_weights(paths[1]))
    assert [(d.tensor, d.weights, d.largest) for d in found.differences] == [("thing.weight", 64, 1.0)]


def test_an_unknown_architecture_against_a_checkpoint_is_refused(held, tmp_path):
    with pytest.raises(InputError, match=r"architecture is 'rwkv7'.*can be compared with another GGUF file only"):
        compare_weights(open_weights(held["q4_0"]), open_weights(foreign(tmp_path / "a.gguf", 1.0)))


def foreign(path: Path, value: float) -> Path:
    writer = gguf.GGUFWriter(path, "rwkv7")
    writer.add_tensor("thing.weight", np.full((2, 32), value, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["verify", *map(str, arguments)])
    return done.exit_code, done.stdout + done.stderr


def test_the_command_compares_prints_hashes_and_exits_by_the_result(held):
    code, text = run(held["q4_0"])
    assert code == 0
    assert "weights " in text
    code, text = run(held["q4_0"], held["q4_0.gguf"], held["q4_0.onnx"])
    assert code == 0
    assert text.count("bit for bit the checkpoint's") == 2
    code, text = run(held["q4_0.gguf"], held["q4_0.onnx"])
    assert code == 0
    assert "bit for bit the same" in text
    code, text = run(held["q8_0.gguf"], held["q4_0.gguf"], "--json")
    assert code == 1
    pair = json.loads(text[: text.rindex("}") + 1])["pairs"][0]
    assert not pair["equal"]
    assert len(pair["differences"]) == 28
    code, text = run(held["q8_0.gguf"], held["q4_0.gguf"])
    assert "28 of 38 common tensors differ" in text
    assert "and 16 more; --json lists all" in text


@pytest.mark.parametrize("arguments", [["nowhere"], ["nowhere", "nowhere2"]])
def test_nothing_there_is_one_sentence(arguments):
    code, text = run(*arguments)
    assert code == 2
    assert text == "Error: nowhere: there is no such file or folder\n"


def test_a_folder_without_weights_says_what_could_be_there(tmp_path):
    code, text = run(tmp_path)
    assert code == 2
    assert f"{tmp_path}: holds no weights that can be compared; name a .gguf file" in text


def test_a_long_comparison_shows_how_far_it_is(held):
    done = CliRunner().invoke(cli, ["verify", str(held["q8_0.gguf"]), str(held["q8_0.gguf"])])
    assert re.search(r"compare .*: \d+ tensors", done.stderr)
    assert "bit for bit the same" in done.stdout
    done = CliRunner().invoke(cli, ["verify", str(held["q8_0.gguf"])])
    assert re.search(r"hash .*: \d+ tensors", done.stderr)
