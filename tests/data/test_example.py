"""An example's kept positions are those with a weight, and a cut keeps text, weights and signal together."""

import pytest
import torch

from edgedistill.data.example import Example, counted_from


def test_positions_labels_and_weights_are_those_of_a_loop():
    tokens = torch.tensor([10, 11, 12, 13, 14], dtype=torch.int32)
    weight = torch.tensor([0, 1, 0, 0.25], dtype=torch.float16)
    example = Example(tokens, weight)
    expected = [(t, int(tokens[t + 1]), float(weight[t])) for t in range(4) if weight[t] > 0]
    rows = zip(example.positions.tolist(), example.labels.tolist(), example.weights.tolist(), strict=True)
    assert list(rows) == expected == [(1, 12, 1.0), (3, 14, 0.25)]
    assert example.kept == 2


def test_a_cut_keeps_the_signal_of_the_positions_that_are_left():
    weight = torch.tensor([0, 1, 0, 1, 1], dtype=torch.float16)
    example = Example(torch.arange(6, dtype=torch.int32), weight, {"mark": torch.tensor([1, 3, 4])}, "a")
    cut = example.cut(5)
    assert (cut.tokens.tolist(), cut.positions.tolist(), cut.signal["mark"].tolist()) == (
        [0, 1, 2, 3, 4],
        [1, 3],
        [1, 3],
    )
    assert cut.trace_id == "a"
    assert example.cut(2).kept == 0
    assert example.cut(6) is example


def test_counting_from_a_position_leaves_out_what_is_before_it():
    assert counted_from(torch.arange(5), 2).weight.tolist() == [0, 0, 1, 1]


def test_weights_of_another_length_are_refused():
    with pytest.raises(ValueError, match="an example of 5 tokens needs 4 weights, got 5"):
        Example(torch.arange(5), torch.ones(5))
