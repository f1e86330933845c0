"""What is captured is the model's own: its hidden states give its logits, its importance is the inputs' mean square."""

from pathlib import Path

import pytest
import torch

from edgedistill.data.example import counted_from
from edgedistill.errors import InputError
from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.signals.shards import iter_shards
from edgedistill.teach.capture import CaptureSettings, capture, load_importance
from tests.kills import Killed


def test_hidden_states_and_importance(tiny_llama: Path, tmp_path: Path):
    torch.manual_seed(0)
    documents = [counted_from(torch.randint(3, 300, (n,), dtype=torch.int32), 1) for n in (20, 33, 8)]
    capture(
        tiny_llama,
        [("train", documents), ("validation", documents[:1])],
        CaptureSettings(64, "float32"),
        tmp_path,
        QuietProgress(),
    )
    model = load_model(tiny_llama)
    head = model.get_output_embeddings().weight
    seen: list[torch.Tensor] = []
    model.model.layers[2].mlp.down_proj.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].detach().double()[0])
    )
    for document, captured in zip(documents, iter_shards(tmp_path / "train"), strict=True):
        with torch.no_grad():
            expected = model(document.tokens.long().unsqueeze(0)).logits[0, 1:-1]
        found = captured.signal["hidden"].float() @ head.T
        torch.testing.assert_close(torch.softmax(found, -1), torch.softmax(expected, -1), rtol=0.1, atol=2e-3)
    mean_square = torch.cat(seen).square().mean(0)
    importance = load_importance(tmp_path)
    torch.testing.assert_close(
        importance["model.layers.2.mlp.down_proj.weight"].double(), mean_square, rtol=1e-4, atol=1e-8
    )
    assert len(importance) == 4 * 7
    (validated,) = iter_shards(tmp_path / "validation")
    with torch.no_grad():
        whole = model.model(input_ids=documents[0].tokens.long().unsqueeze(0)).last_hidden_state[0, 1:-1]
    assert validated.signal["hidden"].dtype == torch.float32
    torch.testing.assert_close(validated.signal["hidden"], whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("after", [0, 1, 3, 4])
def test_a_killed_capture_goes_on_to_the_same_bytes(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
):
    monkeypatch.setattr("edgedistill.teach.capture.PART_TOKENS", 100)
    torch.manual_seed(1)
    documents = [
        counted_from(torch.randint(3, 300, (n,), dtype=torch.int32), 1) for n in (40, 33, 50, 64, 20, 64, 12, 60, 2)
    ]
    splits = [("train", documents), ("validation", documents[:3])]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    capture(tiny_llama, splits, CaptureSettings(64, "float32"), whole, QuietProgress())
    with pytest.raises(KeyboardInterrupt):
        capture(tiny_llama, splits, CaptureSettings(64, "float32"), killed, Killed(after, reports=True))
    capture(tiny_llama, splits, CaptureSettings(64, "float32"), killed, QuietProgress())
    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert len(files) > 4
    assert files == sorted(path.relative_to(killed) for path in killed.rglob("*") if path.is_file())
    assert all((whole / name).read_bytes() == (killed / name).read_bytes() for name in files)


def test_a_chat_that_its_row_cuts_before_the_answer_is_left_out(tiny_llama: Path, tmp_path: Path):
    tokens = torch.arange(3, 43, dtype=torch.int32)
    late, early = counted_from(tokens, 33), counted_from(tokens, 4)
    capture(tiny_llama, [("train", [late, early, late])], CaptureSettings(32, "float32"), tmp_path, QuietProgress())
    assert [len(document.signal["hidden"]) for document in iter_shards(tmp_path / "train")] == [27]
    with pytest.raises(
        InputError, match=r"^recover\.seq_len: rows of 32 tokens end before any answer begins; it must be at least 35"
    ):
        capture(tiny_llama, [("train", [late])], CaptureSettings(32, "float32"), tmp_path, QuietProgress())
