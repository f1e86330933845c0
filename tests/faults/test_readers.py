"""The readers of foreign files on their seeds and on some changes of each; `bench/fuzz.py` goes on from there."""

import contextlib
import json
import random
from pathlib import Path

import pytest

from edgedistill.config import load_recipe
from edgedistill.errors import InputError
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_model import gguf_shape
from edgedistill.models.gguf_tokenizer import from_gguf
from edgedistill.models.hf_weights import stored_tensors
from edgedistill.templates.worker import answer
from tests.faults.counts import Counts, record
from tests.faults.mutations import change_bytes
from tests.faults.readers import ARGUMENTS, READERS, gguf_seeds, safetensors_seeds, template_seeds, yaml_seeds

CHANGES = 150


def test_the_seeds_are_valid(tmp_path: Path):
    for number, seed in enumerate(gguf_seeds()):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(seed)
        header = read_header(path)
        assert (gguf_shape(header).layers, len(from_gguf(header).tokens)) == (1, (4, 264)[number])
    for seed in safetensors_seeds():
        (tmp_path / "model.safetensors").write_bytes(seed)
        assert "a" in stored_tensors(tmp_path)
    (tmp_path / "recipe.yaml").write_bytes(yaml_seeds()[0])
    assert load_recipe(tmp_path / "recipe.yaml")
    assert all("text" in answer({"template": seed.decode(), "arguments": ARGUMENTS}) for seed in template_seeds())


@pytest.mark.parametrize("name", READERS)
def test_changed_bytes_are_read_or_refused(name: str, tmp_path: Path):
    rng, reader = random.Random(7), READERS[name]
    seeds = reader.seeds()
    for _ in range(CHANGES):
        reader.read(change_bytes(rng.choice(seeds), rng), tmp_path)
    if reader.change is None:
        return
    with pytest.raises(ValueError):  # noqa: PT011 - whatever its parser says
        reader.change(b"\x05\0\0\0\0\0\0\0[1,: {", rng)
    for _ in range(CHANGES // 3):
        content = rng.choice(seeds)
        with contextlib.suppress(ValueError):
            content = reader.change(content, rng)
        reader.read(content, tmp_path)


def test_a_record_keeps_the_classes_of_other_commands(tmp_path: Path):
    path = tmp_path / "faults.json"
    record([Counts("a", 3, ["x"]), Counts("b", 1)], "python one.py", 2.4, path)
    record([Counts("b", 5)], "python two.py", 9.0, path)
    classes = json.loads(path.read_text())["classes"]
    assert [(c["class"], c["tried"], c["right"], c["wrong"], c["command"], c["seconds"]) for c in classes] == [
        ("a", 3, 2, 1, "python one.py", 2),
        ("b", 5, 5, 0, "python two.py", 9),
    ]


def test_an_unknown_error_of_a_reader_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(_: Path) -> None:
        raise KeyError("architecture")

    monkeypatch.setattr("edgedistill.models.gguf_model.gguf_shape", broken)
    with pytest.raises(KeyError):
        READERS["gguf"].read(gguf_seeds()[0], tmp_path)
    monkeypatch.setattr("edgedistill.models.gguf_model.gguf_shape", lambda _: (_ for _ in ()).throw(InputError("no")))
    READERS["gguf"].read(gguf_seeds()[0], tmp_path)
