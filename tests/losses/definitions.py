"""The divergences as their papers define them: outcome by outcome in plain floats, and on float64 tensors for
autograd.
"""

import math

import torch


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def mix(p, q, share):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


# Of lists of probabilities, teacher p and student q.
LOOPS = {
    "forward_kl": lambda p, q: kl(p, q),
    "reverse_kl": lambda p, q: kl(q, p),
    "jsd": lambda p, q, beta: beta * kl(p, mix(p, q, beta)) + (1 - beta) * kl(q, mix(p, q, beta)),
    "skew_kl": lambda p, q, alpha: kl(p, mix(p, q, alpha)),
    "skew_reverse_kl": lambda p, q, alpha: kl(q, mix(q, p, alpha)),
    "tvd": lambda p, q: sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2,
}


def kl_rows(p, q):
    return (p * (p.log() - q.log())).sum(-1)


# Of float64 rows of probabilities.
TENSORS = {
    "forward_kl": lambda p, q: kl_rows(p, q),
    "reverse_kl": lambda p, q: kl_rows(q, p),
    "jsd": lambda p, q, beta: (
        beta * kl_rows(p, beta * p + (1 - beta) * q) + (1 - beta) * kl_rows(q, beta * p + (1 - beta) * q)
    ),
    "skew_kl": lambda p, q, alpha: kl_rows(p, alpha * p + (1 - alpha) * q),
    "skew_reverse_kl": lambda p, q, alpha: kl_rows(q, alpha * q + (1 - alpha) * p),
    "tvd": lambda p, q: (p - q).abs().sum(-1) / 2,
}
CASES = [
    ("forward_kl", {}),
    ("reverse_kl", {}),
    ("jsd", {"beta": 0.5}),
    ("jsd", {"beta": 0.1}),
    ("jsd", {"beta": 0.9}),
    ("skew_kl", {"alpha": 0.1}),
    ("skew_kl", {"alpha": 0.7}),
    ("skew_reverse_kl", {"alpha": 0.1}),
    ("skew_reverse_kl", {"alpha": 0.7}),
    ("tvd", {}),
]
NAMES = [f"{name}-{'-'.join(map(str, settings.values()))}".rstrip("-") for name, settings in CASES]


def softmax(logits):
    """Of a list, in plain floats."""
    top = max(logits)
    weights = [math.exp(z - top) for z in logits]
    return [w / sum(weights) for w in weights]


def grouped(probabilities, ids):
    """[n, K + 1]: the probabilities of the ids, and of all others together."""
    known = probabilities.gather(-1, ids)
    return torch.cat([known, 1 - known.sum(-1, keepdim=True)], -1)
