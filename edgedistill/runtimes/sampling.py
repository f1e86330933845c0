"""From logits to a token, and to the K likeliest with their log-probabilities. numpy, float32, one row a position.

Made for 32 rows of 49,152 logits at every step of a generation: whole-row sorts and partitions would cost as much as
the model itself.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

# The nucleus is looked for among the tokens above the first share of the probability, then the next: few to sort.
NUCLEUS_FLOORS = (1e-3, 1e-5, 0.0)

LOWEST = np.float32(np.finfo(np.float16).min)  # of a masked token's log-probability: finite, so that sums stay so


@dataclass(frozen=True)
class BatchSettings:
    """How many prompts are continued at once.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: in (0, 1], cuts the tail after the temperature.
        stop_ids: tokens that end a text; None takes the file's own, () never stops.
        top_k: log-probabilities to return for each new token; 0 for none.
        prompt_logprobs: whether to return them at the prompt's positions too (needs top_k).
    """

    temperature: float = 0.0
    top_p: float = 1.0
    stop_ids: Collection[int] | None = None
    top_k: int = 0
    prompt_logprobs: bool = False


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """[N] float32: log of the sum of exp over each row of [N, V]."""
    top = logits.max(axis=1, keepdims=True)
    return (top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True)))[:, 0]


def top_log_probs(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The K likeliest tokens of each row of [N, V], likeliest first, equal ones by their id.

    Returns:
        ids [N, K] int32 and log-probabilities [N, K] float16 of the softmax over all V at temperature 1.
    Raises:
        ValueError: K is not in 1..V.
    """
    rows, vocab = logits.shape
    if not 1 <= k <= vocab:
        raise ValueError(f"top_k is {k}; it must be between 1 and the vocabulary of {vocab}")
    ids = np.empty((rows, k), np.int32)
    values = np.empty((rows, k), np.float32)
    floors = _kth_largest_at_least(logits, k)
    for row in range(rows):
        candidates = np.flatnonzero(logits[row] >= floors[row])
        picked = logits[row, candidates]
        if len(candidates) > 4 * k:
            cut = np.partition(picked, len(picked) - k)[len(picked) - k]
            candidates = candidates[picked >= cut]
            picked = logits[row, candidates]
        order = np.argsort(-picked, kind="stable")[:k]
        ids[row], values[row] = candidates[order], picked[order]
    return ids, np.maximum(values - log_sum_exp(logits)[:, None], LOWEST).astype(np.float16)


def _kth_largest_at_least(logits: np.ndarray, k: int) -> np.ndarray:
    """[N] lower bounds of each row's K-th largest value.

    Cut a row into groups: at least K values are as large as the K-th largest of the groups' maxima. With 8 groups for
    each of the K values few others are.
    """
    rows, vocab = logits.shape
    groups = min(8 * k, vocab // 2)
    if groups < k:
        return np.full(rows, -np.inf, np.float32)
    size = vocab // groups
    maxima = logits[:, : groups * size].reshape(rows, size, groups).max(axis=1)
    return np.partition(maxima, groups - k, axis=1)[:, groups - k]


class Sampler:
    """Draws one sequence's tokens. One uniform number a token, so the text depends on the seed and the logits alone."""

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        """Temperature 0 takes the likeliest token; top_p in (0, 1] cuts the tail after the temperature, as transformers
        does.
        """
        if temperature < 0 or not 0 < top_p <= 1:
            raise ValueError(f"temperature is {temperature} and top_p is {top_p}; they must be >= 0 and in (0, 1]")
        self._temperature = temperature
        self._top_p = top_p
        self._random = np.random.Generator(np.random.PCG64(seed))

    def draw(self, logits: np.ndarray) -> int:
        """The next token from one row [V] of logits."""
        if self._temperature == 0:
            return int(logits.argmax())
        weights = np.exp((logits - logits.max()) / np.float32(self._temperature))
        uniform = self._random.random()
        if self._top_p == 1:
            return _pick(np.cumsum(weights, dtype=np.float64), uniform)
        total = float(weights.sum(dtype=np.float64))
        for floor in NUCLEUS_FLOORS:
            ids = np.flatnonzero(weights >= floor * total)
            if weights[ids].sum(dtype=np.float64) >= self._top_p * total:
                break
        ids = ids[np.argsort(-weights[ids], kind="stable")]
        mass = np.cumsum(weights[ids], dtype=np.float64)
        kept = int(np.searchsorted(mass, self._top_p * total)) + 1
        return int(ids[_pick(mass[:kept], uniform)])


def _pick(mass: np.ndarray, uniform: float) -> int:
    """The index in which `uniform` of the cumulated mass falls."""
    return min(int(np.searchsorted(mass, uniform * mass[-1], side="right")), len(mass) - 1)
