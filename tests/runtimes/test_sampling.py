"""The K likeliest and the draw, against float64 over the whole vocabulary."""

import numpy as np
import pytest

from edgedistill.runtimes.sampling import Sampler, top_log_probs

GENERATOR = np.random.Generator(np.random.PCG64(7))


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


@pytest.mark.parametrize("vocab", [5, 384, 1000, 49152])
@pytest.mark.parametrize("k", [1, 3, 64, "all"])
@pytest.mark.parametrize("kind", ["normal", "peaked", "ties", "constant", "masked"])
def test_top_is_a_sorted_log_softmax(vocab, k, kind):
    k = min(vocab, 400 if k == "all" else k)
    logits = GENERATOR.standard_normal((3, vocab)).astype(np.float32) * 4
    if kind == "peaked":
        logits[:, vocab // 2] += 60
    elif kind == "ties":
        logits = np.round(logits)
    elif kind == "constant":
        logits[:] = 1.5
    elif kind == "masked":
        logits[:, vocab // 3 :] = -1e30
    expected = log_softmax(logits)
    order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
    ids, logp = top_log_probs(logits, k)
    assert (ids == order).all()
    np.testing.assert_allclose(logp, np.maximum(np.take_along_axis(expected, order, 1), -65504), rtol=2e-3, atol=1e-6)


def test_top_of_none_is_refused():
    with pytest.raises(ValueError, match="top_k is 9; it must be between 1 and the vocabulary of 8"):
        top_log_probs(np.zeros((1, 8), np.float32), 9)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8), (1.5, 0.6)])
def test_draws_follow_the_distribution(temperature, top_p):
    logits = (GENERATOR.standard_normal(40) * 2).astype(np.float32)
    probabilities = np.exp(log_softmax(logits / temperature))
    order = np.argsort(-probabilities)
    before = np.cumsum(probabilities[order]) - probabilities[order]
    probabilities[order[before >= top_p]] = 0  # the smallest set that reaches top_p
    probabilities /= probabilities.sum()
    sampler = Sampler(temperature, top_p, seed=3)
    counts = np.bincount([sampler.draw(logits) for _ in range(20000)], minlength=40)
    assert not counts[probabilities == 0].any()
    np.testing.assert_allclose(counts / 20000, probabilities, atol=0.015)


def test_nucleus_of_a_flat_distribution_reaches_the_tail():
    sampler = Sampler(1.0, 0.9, seed=0)
    assert max(sampler.draw(np.zeros(5000, np.float32)) for _ in range(50)) > 2500


def test_temperature_zero_takes_the_first_of_the_likeliest():
    assert Sampler(0.0, 1.0, 0).draw(np.array([1, 3, 3, 0], np.float32)) == 1


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"temperature is -1 and top_p is 1; they must be >= 0 and in \(0, 1\]"):
        Sampler(-1, 1, 0)
