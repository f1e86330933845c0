"""A layer at a time against the whole model: the same hidden states, to the bit."""

import pytest
import torch

from edgedistill.data.example import counted_from
from edgedistill.models.load import load_model
from edgedistill.train.forward import batches, kept_hidden
from edgedistill.train.layered import LayeredModel, layered_hidden
from tests.tiny import VARIANTS, make_tiny

SEQ_LEN = 48


def _documents(vocabulary: int):
    generator = torch.Generator().manual_seed(3)
    lengths = (40, 17, 48, 9, 33, 26)
    return [counted_from(torch.randint(0, vocabulary, (n,), generator=generator).int()) for n in lengths]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", sorted(VARIANTS))
def test_hidden_states_are_the_whole_models(family, dtype, tmp_path):
    folder = make_tiny(family, tmp_path / family)
    model = load_model(folder).requires_grad_(False)
    packed = [batch for batch, _ in batches(_documents(model.config.vocab_size), SEQ_LEN, rows_per_batch=2)]
    assert len(packed) > 1
    ours = layered_hidden(LayeredModel(folder), packed, dtype)
    for batch, hidden in zip(packed, ours, strict=True):
        with torch.no_grad():
            assert torch.equal(hidden, kept_hidden(model, batch, dtype))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "granite"])
def test_last_states_are_transformers_own(family, tmp_path):
    folder = make_tiny(family, tmp_path / family)
    model = load_model(folder)
    tokens = [document.tokens.long().unsqueeze(0) for document in _documents(model.config.vocab_size)]
    with torch.no_grad():
        ours = LayeredModel(folder).last_states(tokens, [{} for _ in tokens])
        for each, state in zip(tokens, ours, strict=True):
            assert torch.equal(state, model.model(input_ids=each, use_cache=False).last_hidden_state)


def test_other_weights_are_read_by_name(tiny_llama):
    layered = LayeredModel(tiny_llama)
    doubled = {name: 2 * tensor for name, tensor in layered.weights.items()}
    document = _documents(512)[0].tokens.long().unsqueeze(0)
    with torch.no_grad():
        (ours,) = LayeredModel(tiny_llama, doubled).last_states([document], [{}])
        theirs = load_model(tiny_llama, weights={n: t for n, t in doubled.items() if n != "lm_head.weight"})
        assert torch.equal(ours, theirs.model(input_ids=document, use_cache=False).last_hidden_state)


def test_no_weights_stay_in_memory(tiny_llama):
    layered = LayeredModel(tiny_llama)
    document = _documents(512)[0].tokens.long().unsqueeze(0)
    seen = []
    with torch.no_grad():
        layered.last_states(
            [document],
            [{}],
            before=lambda _index: seen.append(sum(not p.is_meta for p in layered.model.model.layers.parameters())),
        )
    of_a_layer = len(list(layered.layers[0].parameters()))
    assert seen == [of_a_layer] * len(layered.layers)
    assert all(parameter.is_meta for parameter in layered.model.model.layers.parameters())
