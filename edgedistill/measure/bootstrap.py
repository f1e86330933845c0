"""Intervals of what is no share of rows, by resampling the rows (percentile bootstrap): an F1 over the fields of many
rows, a quotient of sums.

Two files are compared on the same resampled rows: what is hard for both moves both.
Source: Efron 1979, Bootstrap methods: another look at the jackknife; Koehn 2004, Statistical significance tests for
machine translation evaluation (paired).
"""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
SEED = 1
Counts = Sequence[Sequence[int]]  # of each row true positives, false positives, false negatives


def micro_f1(counts: Counts) -> float:
    """2 TP / (2 TP + FP + FN) over all rows; 0 where there is nothing."""
    return float(_f1(np.asarray(counts, np.int64)[None].sum(1))[0])


def f1_interval(counts: Counts, confidence: float) -> tuple[float, float]:
    """The interval of `micro_f1`."""
    return middle(_resampled(counts), confidence)


def f1_difference(first: Counts, second: Counts, confidence: float) -> tuple[float, float, float]:
    """The second file's F1 minus the first's on the same rows, and its interval.

    Raises:
        ValueError: they aren't of as many rows.
    """
    if len(first) != len(second):
        raise ValueError(f"pairs need the same rows, got {len(first)} and {len(second)}")
    return micro_f1(second) - micro_f1(first), *middle(_resampled(second) - _resampled(first), confidence)


def resampled_sums(rows: np.ndarray) -> np.ndarray:
    """The sums [RESAMPLES, N] over each resample of some rows [R, N]; all calls of as many rows draw the same ones."""
    drawn = np.random.default_rng(SEED).integers(0, len(rows), (RESAMPLES, len(rows)))
    return np.asarray(rows[drawn].sum(1))


def middle(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """The percentiles that hold so large a share of the values between them."""
    low, high = np.quantile(values, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


def _resampled(counts: Counts) -> np.ndarray:
    """The F1 of each resample [RESAMPLES]."""
    return _f1(resampled_sums(np.asarray(counts, np.int64)))


def _f1(sums: np.ndarray) -> np.ndarray:
    """Of sums [N, 3] over rows."""
    both, total = 2 * sums[:, 0], 2 * sums[:, 0] + sums[:, 1] + sums[:, 2]
    return np.where(total > 0, both / np.maximum(total, 1), 0.0)
