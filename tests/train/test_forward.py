"""Packed documents give the hidden states that transformers gives for each document alone, in every family."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgedistill.data.example import counted_from
from edgedistill.data.packing import make_batch
from edgedistill.losses.blocks import needs_of
from edgedistill.train.forward import compute_type, kept_blocks, kept_hidden

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = ["sliding_attention", "full_attention"] * 2
CASES = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {"sliding_window": 5, "use_sliding_window": True, "layer_types": KINDS},
    "qwen3": {"head_dim": 16},
    "gemma3_text": {"sliding_window": 5, "layer_types": KINDS, "head_dim": 16},
    "phi3": {"sliding_window": 6},
    "smollm3": {"no_rope_layers": [1, 1, 0, 1]},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "olmo2": {},
}


@pytest.mark.parametrize("family", CASES)
def test_packing_changes_nothing(family):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **CASES[family])).eval()
    documents = [counted_from(torch.randint(3, 97, (n,))) for n in (20, 9, 14)]
    batch = make_batch([documents[:2], documents[2:]], seq_len=32)
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        found = kept_hidden(model, batch, torch.float32) @ head.T
        expected = torch.cat([model(d.tokens.unsqueeze(0)).logits[0, :-1] for d in documents])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", CASES)
def test_states_and_what_attends_are_transformers_own(family):
    """States of packed documents are `hidden_states` of each alone; what attends gives its eager attention weights."""
    torch.manual_seed(0)
    changes = {"attn_implementation": "eager"}
    config = AutoConfig.for_model(family, **SIZES, **CASES[family])
    model = AutoModelForCausalLM.from_config(config, **changes).eval()
    documents = [counted_from(torch.randint(3, 97, (n,))) for n in (5, 4, 6)]
    batch = make_batch([documents[:2], documents[2:]], seq_len=16)
    needs = needs_of([1, 3, 4], [2, 4])
    scaling = float(model.model.layers[0].self_attn.scaling)
    with torch.no_grad():
        alone = [
            model(d.tokens.unsqueeze(0), output_hidden_states=True, output_attentions=True, use_cache=False)
            for d in documents
        ]
        hidden, outputs = kept_blocks(model, batch, torch.float32, needs)
        assert torch.equal(hidden, kept_hidden(model, batch, torch.float32))
    assert (set(outputs.states), set(outputs.attention)) == (needs.states, needs.attention)
    for layer, found in outputs.states.items():
        expected = torch.cat([each.hidden_states[layer][0, :-1] for each in alone])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    starts = [0, 5, 9]
    for block, attending in outputs.attention.items():
        for start, document, each in zip(starts, documents, alone, strict=True):
            length = len(document.tokens)
            rows = slice(start, start + length)
            q, k = (
                side[rows].view(length, -1, side.shape[-1] // count).transpose(0, 1)
                for side, count in ((attending.queries, 4), (attending.keys, 2))
            )
            scores = q @ k.repeat_interleave(2, 0).transpose(1, 2) * scaling
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
            if length <= 5:  # the shortest window
                torch.testing.assert_close(
                    torch.softmax(scores, -1), each.attentions[block - 1][0], rtol=1e-4, atol=1e-5
                )
            assert attending.values[rows].shape == attending.keys[rows].shape


@pytest.mark.parametrize(("flags", "computed"), [({"avx2", "fma"}, "float32"), ({"avx512_bf16"}, "bfloat16")])
def test_auto_computes_in_bfloat16_where_the_processor_does(
    flags: set[str], computed: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edgedistill.machine._cpu_flags", lambda: flags)
    assert compute_type("auto") == getattr(torch, computed)
    assert compute_type("float32") == torch.float32
    assert compute_type("bfloat16") == torch.bfloat16
