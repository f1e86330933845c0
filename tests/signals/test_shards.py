"""Signals come back from disk as they were, and a broken shard is named."""

import pytest
import torch

from edgedistill.data.example import Example, counted_from
from edgedistill.errors import RunError
from edgedistill.signals.shards import iter_shards, load_shard, save_shard, shard_path


def document(length: int, first: int, base: int) -> Example:
    kept = length - 1 - first
    signal = {
        "ids": torch.arange(kept * 4, dtype=torch.int32).view(kept, 4) + base,
        "log_probs": torch.randn(kept, 4).half(),
    }
    return counted_from(torch.arange(base, base + length, dtype=torch.int32), first, signal)


def test_round_trip(tmp_path):
    documents = [document(9, 0, 100), document(5, 3, 200), document(2, 0, 300)]
    save_shard(shard_path(tmp_path, 0), documents[:2])
    save_shard(shard_path(tmp_path, 1), documents[2:])
    found = list(iter_shards(tmp_path))
    assert len(found) == 3
    for one, other in zip(found, documents, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.weight, other.weight)
        assert one.trace_id == other.trace_id
        assert all(torch.equal(one.signal[name], other.signal[name]) for name in other.signal)


def test_weights_with_gaps_and_trace_ids_come_back(tmp_path):
    weights = ([0, 1, 0, 0.5], [0, 0], [2])
    examples = []
    for number, values in enumerate(weights):
        weight = torch.tensor(values, dtype=torch.float16)
        rows = torch.arange(int((weight > 0).sum())) + 10 * number
        tokens = torch.arange(len(weight) + 1, dtype=torch.int32)
        examples.append(Example(tokens, weight, {"mark": rows}, ["α", "", "c"][number]))
    save_shard(shard_path(tmp_path, 0), examples)
    for one, other in zip(load_shard(shard_path(tmp_path, 0)), examples, strict=True):
        assert torch.equal(one.weight, other.weight)
        assert torch.equal(one.signal["mark"], other.signal["mark"])
        assert one.trace_id == other.trace_id


def test_what_every_token_has_comes_back_and_is_cut_with_the_tokens(tmp_path):
    examples = []
    for length in (7, 4):
        plain = document(length, 2, 10 * length)
        every = {"keys-3": torch.randn(length, 6).bfloat16()}
        examples.append(Example(plain.tokens, plain.weight, plain.signal, "", every))
    save_shard(shard_path(tmp_path, 0), examples)
    for one, other in zip(load_shard(shard_path(tmp_path, 0)), examples, strict=True):
        assert set(one.signal) == {"ids", "log_probs"}
        assert torch.equal(one.every["keys-3"], other.every["keys-3"])
        assert torch.equal(one.cut(3).every["keys-3"], other.every["keys-3"][:3])
    with pytest.raises(ValueError, match="example 0: signal 'keys-3' has 6 rows for 7 tokens"):
        save_shard(
            shard_path(tmp_path, 1),
            [Example(examples[0].tokens, examples[0].weight, {}, "", {"keys-3": torch.zeros(6, 2)})],
        )


def test_misaligned_signals_are_refused(tmp_path):
    good = document(9, 0, 0)
    with pytest.raises(ValueError, match=r"example 0: signal 'ids' has 7 rows for 8 kept positions"):
        save_shard(shard_path(tmp_path, 0), [counted_from(good.tokens, 0, {"ids": good.signal["ids"][:7]})])
    assert not list(tmp_path.iterdir())


def test_a_truncated_shard_is_named(tmp_path):
    path = shard_path(tmp_path, 0)
    save_shard(path, [document(9, 0, 0)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"signals-00000.safetensors: not a whole signal shard"):
        load_shard(path)
