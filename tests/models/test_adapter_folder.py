"""An adapter's folder as a model: merged as peft merges it, found again, and refused where it isn't the base's."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from edgedistill.errors import InputError
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.models.source import resolve, resolve_config_only
from tests.tiny import make_tiny

PEFTS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # of transformers, as peft reads it

PATTERNS = {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"down_proj": 5}, "use_rslora": True}


def save_adapter(base: Path, folder: Path, **changes: object) -> Path:
    """An adapter with random values, saved by peft."""
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj", "o_proj"], **changes}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
    torch.manual_seed(1)
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            value.data.normal_(std=0.1)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny("llama", tmp_path_factory.mktemp("base") / "base")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "LICENSE").write_text("All of it.")
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return save_adapter(base, tmp_path / "mine")


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@PEFTS
@pytest.mark.parametrize("family", ["llama", "phi3", "olmo2"])
@pytest.mark.parametrize("changes", [{}, PATTERNS])
def test_it_is_merged_as_peft_merges_it_bit_for_bit(family: str, changes: dict, tmp_path: Path):
    whole = make_tiny(family, tmp_path / "whole")
    folder = save_adapter(whole, tmp_path / "mine", **changes)
    before = contents(tmp_path)
    place = resolve(str(folder), cache=tmp_path / "cache")
    ours = load_model(place).state_dict()
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(whole), folder).merge_and_unload()
    expected = theirs.state_dict()
    plain = AutoModelForCausalLM.from_pretrained(whole).state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    changed = {name.split(".")[-2] for name in expected if not torch.equal(ours[name], plain[name])}
    assert changed == {"q_proj", "down_proj", "o_proj"} - ({"q_proj"} if family == "phi3" else set())
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before, "neither adapter nor base is written to"


@PEFTS
def test_it_has_the_adapters_name_and_its_bases_licence_and_is_merged_once(base: Path, adapter: Path, tmp_path: Path):
    place = resolve(str(adapter), cache=tmp_path / "cache")
    facts = read_facts(place, str(adapter))
    assert (facts.name, facts.license, facts.shape) == ("mine", "apache-2.0", read_facts(base, "base").shape)
    assert (place / "LICENSE").read_text() == "All of it."
    times = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    assert resolve(str(adapter), cache=tmp_path / "cache") == place
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == times
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    assert resolve(str(adapter), cache=tmp_path / "cache") != place


@PEFTS
def test_the_plan_needs_no_weights_of_it_merged(base: Path, adapter: Path, tmp_path: Path):
    place = resolve_config_only(str(adapter), cache=tmp_path / "cache")
    assert not list(place.glob("*.safetensors"))
    assert read_facts(place, str(adapter), config_only=True).name == "mine"


@PEFTS
def test_its_own_tokenizer_and_template_are_the_models(base: Path, adapter: Path, tmp_path: Path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, adapter / name)
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
    place = resolve_config_only(str(adapter), cache=tmp_path / "cache")
    assert (place / "chat_template.jinja").read_text() == "{{ messages[0].content }}"


@PEFTS
def test_an_adapter_of_another_base_is_refused_in_a_sentence_that_names_both(adapter: Path, tmp_path: Path):
    wider = make_tiny("llama", tmp_path / "wider", hidden_size=96, intermediate_size=128)
    shallower = make_tiny("llama", tmp_path / "shallower", num_hidden_layers=2)
    for other, why in (
        (wider, r"model\.layers\.0\.mlp\.down_proj is for a matrix of 64 x 96, and that of '.*wider' has 96 x 128"),
        (shallower, r"it has model\.layers\.2\.mlp\.down_proj, and '.*shallower' has no such matrix"),
    ):
        _changed(adapter, base_model_name_or_path=str(other))
        with pytest.raises(InputError, match=rf"mine: the adapter was trained beside another model than '.*': {why}"):
            resolve_config_only(str(adapter), cache=tmp_path / "cache")


def _changed(adapter: Path, **keys: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@PEFTS
@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"peft_type": "IA3"}, "it is an adapter of type 'IA3', and only LORA is merged here"),
        ({"modules_to_save": ["lm_head"]}, r"its modules_to_save is \['lm_head'\], which isn't merged here"),
        ({"use_dora": True}, "its use_dora is True, which isn't merged here"),
        ({"base_model_name_or_path": None}, "it is an adapter that names no base model"),
        ({"base_model_name_or_path": "/nowhere"}, "it is an adapter of '/nowhere', which isn't here: model '/nowhere'"),
        ({"r": 0}, "r is 0 and lora_alpha 6; they must be numbers above 0"),
    ],
)
def test_what_cant_be_merged_is_refused(adapter: Path, tmp_path: Path, keys: dict, why: str):
    _changed(adapter, **keys)
    with pytest.raises(InputError, match=why):
        resolve_config_only(str(adapter), cache=tmp_path / "cache")


@PEFTS
def test_a_pickle_is_never_read_and_a_wrong_rank_is_found(adapter: Path, tmp_path: Path):
    _changed(adapter, r=3)
    with pytest.raises(InputError, match="by its config it must be"):
        resolve(str(adapter), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("merged/*/mine"))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(InputError, match=r"it is an adapter without adapter_model\.safetensors"):
        resolve(str(adapter), cache=tmp_path / "cache")


@PEFTS
def test_plan_takes_an_adapter_and_exits_2_for_another_base(adapter: Path, tmp_path: Path):
    def plan() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgedistill", "plan", str(adapter), "-t", "laptop-cpu", "-r", "tiny"]
        environment = {**os.environ, "EDGEDISTILL_CACHE": str(tmp_path / "cache")}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    done = plan()
    assert done.returncode == 0, done.stderr
    assert "Teacher   mine:" in done.stdout
    _changed(adapter, base_model_name_or_path=str(make_tiny("llama", tmp_path / "wider", hidden_size=96)))
    refused = plan()
    assert refused.returncode == 2
    assert "trained beside another model than" in refused.stderr
