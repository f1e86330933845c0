"""Worst tokens against the KL of every position, computed in float64 on whole logits."""

import numpy as np
import pytest
import torch

from edgedistill.data.example import counted_from
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.measure.judge import Judge, make_reference
from edgedistill.measure.positions import PositionComparison
from edgedistill.measure.quality import measure_quality
from edgedistill.measure.worst import APART, COUNT, DocumentPiece, WorstTokens
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.runtimes.llama import LlamaCpp


def log_softmax(rows):
    wide = rows.astype(np.float64)
    return (
        wide - wide.max(-1, keepdims=True) - np.log(np.exp(wide - wide.max(-1, keepdims=True)).sum(-1, keepdims=True))
    )


def test_worst_tokens_are_the_ones_with_the_largest_kl(tiny_llama, tmp_path):
    shape = read_facts(tiny_llama, "tiny").shape
    model = load_model(tiny_llama)
    state = model.state_dict()
    torch.manual_seed(3)
    noisy = {t.name: state[t.name] + 0.03 * torch.randn_like(state[t.name]) for t in shape.tensors()}
    path = write_gguf(float_checkpoint(noisy, "f32"), tiny_llama, shape, tmp_path / "noisy.gguf", {"name": "noisy"})
    documents = [
        counted_from(torch.randint(3, 300, (n,), dtype=torch.int32), first)
        for n, first in ((200, 4), (150, 0), (180, 9))
    ]
    judges = [Judge("one", "random", tuple(documents[:1])), Judge("two", "random", tuple(documents[1:]))]
    reference = make_reference(tiny_llama, judges, tmp_path / "reference.safetensors", "tiny", QuietProgress())
    worst = WorstTokens()
    with LlamaCpp(path, threads=1, context=256, parallel=1) as runtime:
        plain = measure_quality(runtime, judges, {"student": reference}, QuietProgress())
        assert measure_quality(runtime, judges, {"student": reference}, QuietProgress(), worst) == plain
        found = worst.describe(runtime, judges)
        everywhere = []  # (kl, judge, document, position, expected, got, p_expected, p_file)
        for number, (judge, document) in enumerate(
            (("one", documents[0]), ("two", documents[1]), ("two", documents[2]))
        ):
            log_q = log_softmax(runtime.logits(document.tokens.tolist()))
            with torch.no_grad():
                log_p = log_softmax(model(document.tokens.long().unsqueeze(0)).logits[0].numpy())
            for position in document.positions.tolist():
                p, q = log_p[position], log_q[position]
                best = int(p.argmax())
                kl = float((np.exp(p) * (p - q)).sum())
                everywhere.append(
                    (kl, judge, number, position, best, int(q.argmax()), np.exp(p[best]), np.exp(q[best]))
                )
        everywhere.sort(reverse=True)
        expected = []
        for entry in everywhere:
            same = any(
                other[4:6] == entry[4:6] or other[2] == entry[2] and abs(other[3] - entry[3]) < APART
                for other in expected
            )
            if not same and len(expected) < COUNT:
                expected.append(entry)

        assert len(found) == COUNT
        assert len({entry[2] for entry in everywhere[:COUNT]}) < COUNT, (
            "the worst of all are in different documents anyway"
        )
        for entry, (kl, judge, number, position, best, got, p_expected, p_file) in zip(found, expected, strict=True):
            assert abs(entry.kl - kl) < 1e-3 * kl
            assert entry.judge == judge
            assert entry.expected == runtime.detokenize([best], special=True)
            assert entry.got == runtime.detokenize([got], special=True)
            assert abs(entry.p_expected - p_expected) < 1e-4
            assert abs(entry.p_file - p_file) < 1e-3
            read = documents[number].tokens[: position + 1].tolist()
            assert entry.before == "…" * (len(read) > 24) + runtime.detokenize(read[-24:]).lstrip("\ufffd")


def test_fewer_positions_than_five_are_all_there_is(tiny_gguf, tiny_llama, tmp_path):
    judges = [Judge("one", "random", (counted_from(torch.tensor([5, 9, 11])),))]
    reference = make_reference(tiny_llama, judges, tmp_path / "reference.safetensors", "tiny", QuietProgress())
    worst = WorstTokens()
    with LlamaCpp(tiny_gguf, threads=1, context=64, parallel=1) as runtime:
        measure_quality(runtime, judges, {"student": reference}, QuietProgress(), worst)
        found = worst.describe(runtime, judges)
    assert len(found) <= 1  # the two positions are neighbours, and a float file may not differ at all


def test_the_same_mistake_counts_once_wherever_it_is():
    worst = WorstTokens()
    log_q = torch.log_softmax(torch.eye(4)[[1, 1, 2, 1]] * 9, -1)  # what the file would say: 1, 1, 2, 1
    likeliest = torch.tensor([0, 0, 0, 3])
    for document, kl in enumerate(([1.0, 0.1, 0.2, 0.3], [2.0, 0.0, 0.1, 0.4])):
        for row in range(4):  # far apart in the document
            part = slice(row, row + 1)
            same = torch.zeros(1, dtype=torch.bool)
            comparison = PositionComparison(torch.tensor(kl)[part], same, likeliest[part], torch.ones(1), log_q[part])
            worst.see(comparison, DocumentPiece(0, document, torch.tensor([100 * row])))
    assert [(one.kl, one.document, one.expected, one.got) for one in worst._worst] == [
        (2.0, 1, 0, 1),
        (pytest.approx(0.4), 1, 3, 1),
        (pytest.approx(0.2), 0, 0, 2),
    ]
