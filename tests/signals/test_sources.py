"""Sources: what they say of a batch, and a teacher whose table has other padding rows than the student's."""

import pytest
import torch

from edgedistill.data.example import counted_from
from edgedistill.data.packing import make_batch
from edgedistill.errors import RunError
from edgedistill.losses.teachers import ExactTeacher, LiveLogits, TopKTeacher, WrittenText
from edgedistill.signals.sources import Shared, StoredHidden, StoredTopK, Written, views

N, V_TEACHER, ROWS, K = 6, 20, 17, 5


@pytest.fixture
def batch():
    torch.manual_seed(0)
    logits = 2 * torch.randn(N, V_TEACHER)
    logits[:, ROWS:] += 1.0  # so that padding rows are among the likeliest
    top = torch.log_softmax(logits, -1).topk(K)
    signal = {"ids": top.indices.int(), "log_probs": top.values.half(), "hidden": torch.randn(N, 4).bfloat16()}
    example = counted_from(torch.arange(N + 2, dtype=torch.int32), 1, signal)
    return make_batch([[example]], N + 2), logits


def test_each_says_what_the_batch_holds(batch):
    whole, _ = batch
    weight = torch.randn(V_TEACHER, 4)
    sources = {"top": StoredTopK(), "exact": StoredHidden(weight, torch.float32), "text": Written()}
    seen = views(sources, frozenset(sources), whole)
    assert torch.equal(seen["top"].ids, whole.signal["ids"])
    assert torch.equal(seen["text"].labels, torch.arange(2, N + 2))
    expected = whole.signal["hidden"].float() @ weight.T
    assert torch.equal(seen["exact"].logits(0, N), expected)
    assert set(views(sources, frozenset({"text"}), whole)) == {"text"}


def test_shared_rows_of_a_whole_distribution_sum_up_to_one_over_these(batch):
    whole, logits = batch

    class Live:
        def view(self, batch):
            return LiveLogits(logits)

    seen = Shared(Live(), ROWS).view(whole)
    expected = torch.softmax(logits.double(), -1)[:, :ROWS]
    torch.testing.assert_close(torch.softmax(seen.logits(0, N).double(), -1), expected / expected.sum(-1, keepdim=True))
    weight = torch.randn(V_TEACHER, 4)
    exact = Shared(StoredHidden(weight, torch.float32), ROWS).view(whole)
    assert isinstance(exact, ExactTeacher)
    assert torch.equal(exact.weight, weight[:ROWS])
    assert isinstance(Shared(Written(), ROWS).view(whole), WrittenText)


def test_shared_rows_of_the_likeliest_words_are_those_of_a_teacher_without_padding(batch):
    whole, logits = batch
    seen = Shared(StoredTopK(), ROWS).view(whole)
    assert isinstance(seen, TopKTeacher)
    beyond = (whole.signal["ids"] >= ROWS).sum(-1)
    assert beyond.max() > beyond.min()
    k = K - int(beyond.max())
    for ids, log_probs, row, named in zip(seen.ids.tolist(), seen.log_probs, logits, whole.signal["ids"], strict=True):
        p = torch.softmax(row.double(), -1)
        p[[index for index in named.tolist() if index >= ROWS]] = 0
        p = p / p.sum()
        likeliest = [index for index in named.tolist() if index < ROWS][:k]
        assert ids == likeliest
        torch.testing.assert_close(log_probs.double(), p[ids].log(), rtol=0, atol=3e-3)  # float16 on the disk


def test_without_padding_among_them_nothing_changes(batch):
    whole, _ = batch
    assert torch.equal(Shared(StoredTopK(), V_TEACHER).view(whole).log_probs, whole.signal["log_probs"])


def test_a_teacher_who_only_names_padding_is_refused(batch):
    whole, _ = batch
    with pytest.raises(RunError, match="5 likeliest tokens at some position all lie beyond the 0 rows"):
        Shared(StoredTopK(), 0).view(whole)
