"""What is stored of a teacher's blocks is transformers' own, joins the text it belongs to, and survives a kill."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgedistill.data.example import Example, counted_from
from edgedistill.data.packing import make_batch
from edgedistill.errors import RunError
from edgedistill.losses.blocks import needs_of
from edgedistill.progress import QuietProgress
from edgedistill.signals.blocks import join_blocks
from edgedistill.signals.sources import StoredBlocks
from edgedistill.teach import capture
from edgedistill.teach.blocks import BlockSettings, store_blocks
from edgedistill.train.live import live_blocks
from tests.teach.test_capture import Killed

NEEDS = needs_of([2, 4], [3])
SETTINGS = BlockSettings(NEEDS, 32, "float32", "distill.seq_len")


@pytest.fixture
def sources() -> dict[str, list[Example]]:
    torch.manual_seed(0)
    lengths = {"written": (20, 40, 8, 3), "prose": (33, 5)}
    return {
        name: [
            counted_from(
                torch.randint(3, 300, (n,), dtype=torch.int32), 2, {"mark": torch.arange(n - 3)}, f"{name}-{n}"
            )
            for n in group
        ]
        for name, group in lengths.items()
    }


def test_stored_states_are_transformers_and_join_the_text(tiny_llama: Path, sources, tmp_path: Path):
    store_blocks(tiny_llama, sources, SETTINGS, tmp_path, QuietProgress())
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    for prefix, name in (("", "written"), ("prose-", "prose")):
        counted = [example for example in sources[name] if example.kept]
        joined = join_blocks(counted, tmp_path / f"{prefix}train", NEEDS)
        assert len(joined) == len(counted)
        for example, whole in zip(joined, counted, strict=True):
            assert len(example.tokens) == min(32, len(whole.tokens))
            assert torch.equal(example.signal["mark"], whole.signal["mark"][: example.kept])
            with torch.no_grad():
                states = model(example.tokens.long()[None], output_hidden_states=True).hidden_states
            for layer in NEEDS.states:
                expected = states[layer][0, 2:-1]
                found = example.signal[f"state-{layer}"]
                assert found.dtype == torch.bfloat16
                torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=1e-4)
            assert {name: len(rows) for name, rows in example.every.items()} == dict.fromkeys(
                ("queries-3", "keys-3", "values-3"), len(example.tokens)
            )


def test_stored_and_live_say_the_same_of_a_packed_batch(tiny_llama: Path, sources, tmp_path: Path):
    store_blocks(tiny_llama, sources, SETTINGS, tmp_path, QuietProgress())
    joined = join_blocks([e for e in sources["written"] if e.kept], tmp_path / "train", NEEDS)
    batch = make_batch([joined[:1], joined[1:]], 64)
    stored, live = StoredBlocks(NEEDS).blocks(batch), live_blocks(tiny_llama, NEEDS, torch.float32).blocks(batch)
    for layer in NEEDS.states:
        torch.testing.assert_close(stored.states[layer].float(), live.states[layer], rtol=2**-7, atol=1e-4)
    real = batch.real.flatten()
    assert not real.all()
    for relation in ("qq", "kk", "vv"):
        ours, theirs = (each.attention[3].vectors(relation) for each in (stored, live))
        torch.testing.assert_close(ours[real].float(), theirs[real], rtol=2**-7, atol=1e-4)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_killed_stage_goes_on_to_the_same_bytes(
    tiny_llama: Path, sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
):
    monkeypatch.setattr(capture, "PART_TOKENS", 40)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    store_blocks(tiny_llama, sources, SETTINGS, whole, QuietProgress())
    with pytest.raises(KeyboardInterrupt):
        store_blocks(tiny_llama, sources, SETTINGS, killed, Killed(after))
    store_blocks(tiny_llama, sources, SETTINGS, killed, QuietProgress())
    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert len(files) == 3
    assert all((whole / file).read_bytes() == (killed / file).read_bytes() for file in files)


def test_another_text_is_noticed(tiny_llama: Path, sources, tmp_path: Path):
    store_blocks(tiny_llama, sources, SETTINGS, tmp_path, QuietProgress())
    counted = [example for example in sources["written"] if example.kept]
    with pytest.raises(RunError, match="holds 3 texts for 2; remove the stage folder"):
        join_blocks(counted[:2], tmp_path / "train", NEEDS)
    with pytest.raises(RunError, match="holds another text than written-40"):
        join_blocks([counted[1], counted[0], counted[2]], tmp_path / "train", NEEDS)
