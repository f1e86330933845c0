"""What is captured is the model's own: its hidden states give its logits, its importance is the inputs' mean square."""

from pathlib import Path

import torch

from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.signals.shards import Document, iter_shards
from edgedistill.teach.capture import capture, load_importance, spread_documents


def test_hidden_states_and_importance(tiny_llama: Path, tmp_path: Path):
    torch.manual_seed(0)
    documents = [Document(torch.randint(3, 300, (n,), dtype=torch.int32), 1, {}) for n in (20, 33, 8)]
    capture(tiny_llama, [("train", documents), ("validation", documents[:1])], 64, "float32", tmp_path, QuietProgress())
    model = load_model(tiny_llama)
    head = model.get_output_embeddings().weight
    seen: list[torch.Tensor] = []
    model.model.layers[2].mlp.down_proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().double()[0]))
    for document, captured in zip(documents, iter_shards(tmp_path / "train"), strict=True):
        with torch.no_grad():
            expected = model(document.tokens.long().unsqueeze(0)).logits[0, 1:-1]
        found = captured.signal["hidden"].float() @ head.T
        torch.testing.assert_close(torch.softmax(found, -1), torch.softmax(expected, -1), rtol=0.1, atol=2e-3)
    mean_square = torch.cat(seen).square().mean(0)
    importance = load_importance(tmp_path)
    torch.testing.assert_close(importance["model.layers.2.mlp.down_proj.weight"].double(), mean_square, rtol=1e-4, atol=1e-8)
    assert len(importance) == 4 * 7
    assert len(list(iter_shards(tmp_path / "validation"))) == 1


def test_documents_are_spread_over_the_list():
    documents = [Document(torch.arange(10), 0, {}) for _ in range(10)]
    chosen = spread_documents(documents, 40, 64)
    assert len(chosen) == 4
    assert spread_documents(documents, 1000, 64) == documents
