"""A sample of documents: even over the list, and even over the sources."""

import pytest
import torch

from edgedistill.data.example import Example, counted_from
from edgedistill.data.spread import spread_documents, spread_sources


def test_documents_are_spread_over_the_list():
    documents = [counted_from(torch.arange(10)) for _ in range(10)]
    chosen = spread_documents(documents, 40, 64)
    assert len(chosen) == 4
    assert spread_documents(documents, 1000, 64) == documents


@pytest.mark.parametrize(
    ("count", "length", "tokens", "seq_len"), [(21, 150, 64, 512), (8, 1024, 512, 1024), (49, 512, 512, 512)]
)
def test_few_tokens_are_still_a_document(count: int, length: int, tokens: int, seq_len: int):
    """Measured on nothing, an error would cost nothing: a single document is the least."""
    documents = [counted_from(torch.zeros(length, dtype=torch.int32)) for _ in range(count)]
    assert len(spread_documents(documents, tokens, seq_len)) == 1


def test_sources_share_a_sample_evenly_and_a_small_one_gives_all_it_has():
    def texts(count: int) -> list[Example]:
        return [counted_from(torch.zeros(10, dtype=torch.int32)) for _ in range(count)]

    sources = {"chats": texts(100), "free": texts(2), "prose": texts(50), "none": []}
    counts = {name: 10 * len(chosen) for name, chosen in spread_sources(sources, 320, 64).items()}
    assert counts == {"chats": 150, "free": 20, "prose": 150}
    assert {name: len(chosen) for name, chosen in spread_sources(sources, 10_000, 64).items()} == {
        "chats": 100,
        "free": 2,
        "prose": 50,
    }
