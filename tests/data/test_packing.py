"""Packing changes nothing that a document's tokens see."""

import random
import time

import pytest
import torch

from edgedistill.data.example import Example, counted_from
from edgedistill.data.packing import make_batch, pack_rows, schedule_rows
from edgedistill.models.load import load_model
from edgedistill.train.forward import batches, kept_hidden


def document(tokens, first=0):
    ids = torch.tensor(tokens, dtype=torch.int32)
    return counted_from(ids, first, {"mark": torch.arange(first, len(tokens) - 1)})


def test_every_document_lies_in_one_row_and_no_row_is_too_long():
    torch.manual_seed(0)
    lengths = torch.randint(2, 300, (200,)).tolist()
    rows = pack_rows(lengths, 256)
    assert sorted(i for row in rows for i in row) == list(range(200))
    assert all(sum(min(lengths[i], 256) for i in row) <= 256 for row in rows)
    assert sum(min(n, 256) for n in lengths) / (256 * len(rows)) > 0.95


def quadratic_rows(lengths, seq_len):
    """Best fit decreasing as it is defined: every row is looked at for every example."""
    rows, free = [], []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = min(lengths[index], seq_len)
        fitting = [row for row, space in enumerate(free) if space >= length]
        if fitting:
            row = min(fitting, key=lambda r: (free[r], r))
            rows[row].append(index)
            free[row] -= length
        else:
            rows.append([index])
            free.append(seq_len - length)
    return rows


@pytest.mark.parametrize("seed", range(40))
def test_rows_are_those_of_best_fit_decreasing(seed):
    rng = random.Random(seed)
    longest = rng.choice([3, 20, 150, 700])
    lengths = [rng.randint(1, longest) for _ in range(rng.choice([1, 2, 30, 400]))]
    for seq_len in (2, 17, 256):
        assert pack_rows(lengths, seq_len) == quadratic_rows(lengths, seq_len)


def test_packing_takes_little_longer_than_sorting():
    rng = random.Random(3)
    lengths = [rng.randint(2, 512) for _ in range(100_000)]
    start = time.process_time()
    rows = pack_rows(lengths, 512)
    assert time.process_time() - start < 2  # the loop over all rows takes ten minutes
    assert sum(map(len, rows)) == len(lengths)


def test_weights_that_are_zero_anywhere_leave_their_positions_out():
    weight = torch.tensor([0, 0.5, 0, 1, 2], dtype=torch.float16)
    example = Example(torch.tensor([3, 4, 5, 6, 7, 8], dtype=torch.int32), weight, {"mark": torch.tensor([1, 3, 4])})
    batch = make_batch([[document([9, 10, 11]), example]], seq_len=8)
    assert batch.kept.tolist() == [0, 1, 4, 6, 7]
    assert batch.labels.tolist() == [10, 11, 5, 7, 8]
    assert batch.weights.tolist() == [1, 1, 0.5, 1, 2]
    assert batch.signal["mark"].tolist() == [0, 1, 1, 3, 4]
    cut = make_batch([[example]], seq_len=5)
    assert (cut.kept.tolist(), cut.signal["mark"].tolist()) == ([1, 3], [1, 3])


def test_labels_and_signals_line_up():
    batch = make_batch([[document([5, 6, 7, 8], first=1), document([9, 10, 11])], [document([20, 21])]], seq_len=16)
    assert batch.labels.tolist() == [7, 8, 10, 11, 21]
    assert batch.tokens.flatten()[batch.kept].tolist() == [6, 7, 9, 10, 20]
    assert batch.signal["mark"].tolist() == [1, 2, 0, 1, 0]
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert batch.real.sum().item() == 9
    assert batch.documents == (4, 3, 2, 5)


def test_a_long_document_is_cut_with_its_signal():
    batch = make_batch([[document(list(range(100)), first=3)]], seq_len=10)
    assert batch.labels.tolist() == list(range(4, 10))
    assert batch.signal["mark"].tolist() == list(range(3, 9))


def test_packed_hidden_states_are_those_of_each_document_alone(tiny_llama):
    model = load_model(tiny_llama)
    torch.manual_seed(3)
    documents = [document(torch.randint(0, 300, (n,)).tolist(), first=2) for n in (30, 9, 17, 25, 4)]
    with torch.no_grad():
        for batch, order in batches(documents, seq_len=40, rows_per_batch=2):
            packed = kept_hidden(model, batch, torch.float32)
            alone = torch.cat(
                [model.model(documents[i].tokens.long().unsqueeze(0)).last_hidden_state[0, 2:-1] for i in order]
            )
            torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_the_schedule_is_a_function_of_the_seed_and_covers_all_rows():
    plan = schedule_rows(10, 3, 7, seed=5)
    assert plan == schedule_rows(10, 3, 7, seed=5)
    assert plan != schedule_rows(10, 3, 7, seed=6)
    flat = [row for step in plan for row in step]
    assert len(flat) == 21
    assert sorted(flat[:10]) == list(range(10))
    # A longer run begins as the shorter one did.
    assert schedule_rows(10, 3, 9, seed=5)[:7] == plan


def test_a_batch_without_a_label_is_refused():
    with pytest.raises(ValueError, match="at least one position"):
        make_batch([[document([1, 2, 3], first=2)]], seq_len=8)
