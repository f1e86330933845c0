"""A folder's safetensors before they are loaded: which files count, in transformers' order, and headers that lie."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from edgedistill.errors import InputError
from edgedistill.export.weights import open_weights
from edgedistill.models.facts import read_facts
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.hf_weights import check_weights
from edgedistill.models.load import load_model

WEIGHTS, HEAD, EMBEDDING = "model.safetensors", "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.mark.parametrize("left", [True, False], ids=["old shard left", "old shard gone"])
def test_a_whole_file_comes_before_an_index_that_is_out_of_date(left: bool, folder: Path):
    old = {name: value + 1 for name, value in load_file(folder / WEIGHTS).items()}
    shard = "model-00001-of-00001.safetensors"
    if left:
        save_file(old, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(old, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    theirs = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
    assert torch.equal(load_model(folder).get_input_embeddings().weight, theirs)
    assert (open_weights(folder).tensors[EMBEDDING].values() == theirs.detach().numpy()).all()


def test_a_head_of_its_own_beside_a_tied_embedding_is_refused(folder: Path):
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {HEAD: weights[EMBEDDING].clone()}, folder / WEIGHTS, metadata={"format": "pt"})
    check_weights(folder, read_shape(folder))  # the same one again, as older files have it
    save_file(weights | {HEAD: weights[EMBEDDING] + 1}, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lm_head\.weight in its safetensors isn't the embedding"):
        check_weights(folder, read_shape(folder))


def rewrite(path: Path, **changes: object) -> None:
    """Change the entry of the embedding in a header; the data stays."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    header[EMBEDDING] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


@pytest.mark.parametrize(
    "changes",
    [
        {"data_offsets": [0, 16]},
        {"data_offsets": [-8, 16]},
        {"data_offsets": [10**30, 10**31]},
        {"shape": [10**12, 10**12]},
        {"shape": None},
        {"shape": [float("inf")]},
        {"shape": [64.0, 512.0]},
        {"data_offsets": [float("inf"), 16]},
        {"data_offsets": [0]},
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused_wherever_it_is_read(changes: dict[str, object], folder: Path):
    rewrite(folder / WEIGHTS, **changes)
    for read in (lambda: check_weights(folder, read_shape(folder)), lambda: open_weights(folder)):
        with pytest.raises(InputError, match=r"model\.safetensors: damaged or cut off"):
            read()


def test_a_cut_off_file_is_refused_by_verify_too(folder: Path):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(InputError, match="its data should end at byte"):
        open_weights(folder)


def test_a_snapshot_of_the_hub_has_the_models_name(folder: Path, tmp_path: Path):
    snapshot = tmp_path / "models--acme--Tiny-Chat" / "snapshots" / ("0123456789" * 4)
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    assert read_facts(snapshot, str(snapshot)).name == "Tiny-Chat"


def test_folders_that_hold_no_model_are_named_for_what_they_are(folder: Path, tmp_path: Path):
    training = tmp_path / "training"
    training.mkdir()
    shutil.copytree(folder, training / "checkpoint-20")
    with pytest.raises(InputError, match="it holds models, such as .*checkpoint-20: name one of them"):
        read_shape(training)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="it is an adapter: merge it"):
        read_shape(adapter)


def test_a_generation_config_that_transformers_refuses_is_named(folder: Path):
    (folder / "generation_config.json").write_text(json.dumps({"cache_implementation": "nothing"}))
    with pytest.raises(InputError, match=r"generation_config\.json: transformers doesn't take it"):
        load_model(folder)
