"""What passing files on asks: a sentence for each known licence, a warning for every other, and never a word from the
file.
"""

import pytest

from edgedistill import licences
from edgedistill.licences import KNOWN, NO_ADVICE, demands, licence_of


def test_every_known_licence_has_a_sentence_and_is_labelled_as_no_advice():
    assert len(KNOWN) >= 15
    for key, found in KNOWN.items():
        assert key == key.lower()
        assert licence_of(key) is found
        assert found.demands.endswith(".")
        assert demands(key) == f"{found.demands} {NO_ADVICE}"
    for other, key in licences._SAME.items():
        assert licence_of(other) is KNOWN[key]


@pytest.mark.parametrize(
    ("identifier", "words"),
    [
        ("apache-2.0", ("copy of the licence", "NOTICE", "were changed")),
        ("Apache 2.0", ("NOTICE",)),
        ("MIT", ("copyright line",)),
        ("cc-by-4.0", ("Name the authors",)),
        ("cc-by-sa-4.0", ("Name the authors", "under the same licence")),
        ("cc-by-nc-4.0", ("no commercial use",)),
        ("llama3.2", ("Built with Llama", "name with “Llama”", "acceptable use policy", "700 million")),
        ("llama3", ("Built with Meta Llama 3", "name with “Llama 3”", "other language models")),
        ("gemma", ("prohibited use policy",)),
        ("qwen-research", ("No commercial use", "Built with Qwen")),
    ],
)
def test_the_demands_of_common_licences(identifier, words):
    for word in words:
        assert word in demands(identifier)


def test_an_unknown_licence_or_none_means_ask():
    assert "ask its makers" in demands(None)
    assert demands("") == demands(None)
    unknown = demands("<script>alert(1)</script>")
    assert "edgedistill doesn't know this licence" in unknown
    assert "script" not in unknown
