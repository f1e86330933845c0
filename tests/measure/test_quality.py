"""Quality figures against their definitions in float64, on a real llama.cpp."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.data.example import Example, counted_from
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.measure.join import recovered_shares
from edgedistill.measure.judge import Judge, Reference, limit_documents, make_reference
from edgedistill.measure.quality import measure_quality
from edgedistill.models.facts import read_facts
from edgedistill.models.load import load_model
from edgedistill.progress import QuietProgress
from edgedistill.results.row import Distance, Quality, Row
from edgedistill.runtimes.llama import LlamaCpp


def test_figures_are_their_definitions(tiny_llama: Path, tmp_path: Path):
    shape = read_facts(tiny_llama, "tiny").shape
    model = load_model(tiny_llama)
    state = model.state_dict()
    noisy = {t.name: state[t.name] + 0.02 * torch.randn_like(state[t.name]) for t in shape.tensors()}
    path = write_gguf(float_checkpoint(noisy, "f32"), tiny_llama, shape, tmp_path / "noisy.gguf", {"name": "noisy"})
    torch.manual_seed(0)
    documents = [counted_from(torch.randint(3, 300, (n,), dtype=torch.int32), first) for n, first in ((90, 4), (40, 0))]
    # Two turns of a conversation: what lies between them doesn't count, and the second counts twice.
    gaps = torch.zeros(39, dtype=torch.float16)
    gaps[5:12], gaps[20:38] = 1, 2
    documents[1] = Example(documents[1].tokens, gaps)
    judges = [Judge("one", "random", tuple(documents[:1])), Judge("two", "random", tuple(documents[1:]))]
    reference = make_reference(tiny_llama, judges, tmp_path / "reference.safetensors", "tiny", QuietProgress())

    with LlamaCpp(path, threads=1, context=128, parallel=1) as runtime:
        found = measure_quality(runtime, judges, {"student": reference}, QuietProgress())
        again = measure_quality(runtime, judges, {"student": reference}, QuietProgress())
        logits = [runtime.logits(d.tokens.tolist()).astype(np.float64) for d in documents]

    assert again == found  # what a reference keeps of a position is what it was
    for judge, document, rows in zip(judges, documents, logits, strict=True):
        with torch.no_grad():
            truth = model(document.tokens.long().unsqueeze(0)).logits[0].double().numpy()
        nll, kls, same = [], [], []
        for position in document.positions.tolist():
            log_q = (
                rows[position] - math.log(np.exp(rows[position] - rows[position].max()).sum()) - rows[position].max()
            )
            log_p = (
                truth[position]
                - math.log(np.exp(truth[position] - truth[position].max()).sum())
                - truth[position].max()
            )
            nll.append(-log_q[int(document.tokens[position + 1])])
            kls.append(float((np.exp(log_p) * (log_p - log_q)).sum()))
            same.append(log_p.argmax() == log_q.argmax())
        figures, weights = found[judge.name], document.weights.tolist()
        assert figures.tokens == len(nll)
        assert figures.ppl == pytest.approx(math.exp(np.average(nll, weights=weights)), rel=1e-4)
        assert figures.student.kl_mean == pytest.approx(np.average(kls, weights=weights), rel=1e-3)
        assert figures.student.kl_p99 == pytest.approx(np.quantile(kls, 0.99), rel=1e-3)
        assert figures.student.top1 == pytest.approx(np.average(same, weights=weights))


def test_a_perplexity_is_given_per_token_of_another_tokenizer(tiny_llama: Path, tmp_path: Path):
    """A teacher with other words reads 60 tokens where the student has 90 that weigh 100: the same nats, shared out."""
    shape, state = read_facts(tiny_llama, "tiny").shape, load_model(tiny_llama).state_dict()
    tensors = {tensor.name: state[tensor.name] for tensor in shape.tensors()}
    path = write_gguf(float_checkpoint(tensors, "f32"), tiny_llama, shape, tmp_path / "tiny.gguf", {"name": "tiny"})
    document = counted_from(torch.randint(3, 300, (61,), dtype=torch.int32, generator=torch.Generator().manual_seed(0)))
    own, shared = (Judge("text", "random", (document,), per) for per in (None, 100.0))
    with LlamaCpp(path, threads=1, context=128, parallel=1) as runtime:
        (plain,), (given,) = (
            measure_quality(runtime, [judge], {}, QuietProgress()).values() for judge in (own, shared)
        )
    assert given.tokens == plain.tokens == 60
    assert given.ppl == pytest.approx(math.exp(60 * math.log(plain.ppl) / 100))
    assert given.distances == {}


def test_a_reference_with_other_padding_rows_is_compared_on_the_rows_of_both(tiny_llama: Path, tmp_path: Path):
    """Qwen2.5's case: a teacher's table is longer than its student's, behind the same words; or shorter."""
    shape = read_facts(tiny_llama, "tiny").shape
    torch.manual_seed(1)
    noisy = {
        name: value + 0.05 * torch.randn_like(value)
        for name, value in load_model(tiny_llama).state_dict().items()
        if name != "lm_head.weight"
    }
    path = write_gguf(float_checkpoint(noisy, "f32"), tiny_llama, shape, tmp_path / "noisy.gguf", {"name": "noisy"})
    judges = [Judge("one", "random", (counted_from(torch.randint(3, 300, (60,), dtype=torch.int32), 4),))]
    same = make_reference(tiny_llama, judges, tmp_path / "reference.safetensors", "tiny", QuietProgress())
    more = Reference(same.hidden, torch.cat([same.head, 9 * torch.randn(8, same.head.shape[1])]))
    fewer = Reference(same.hidden, same.head[:-30])
    with LlamaCpp(path, threads=1, context=128, parallel=1) as runtime:
        references = {"same": same, "more": more, "fewer": fewer}
        found = measure_quality(runtime, judges, references, QuietProgress())["one"].distances
        logits = torch.from_numpy(runtime.logits(judges[0].documents[0].tokens.tolist())[4:-1]).double()
    assert found["more"].kl_mean == pytest.approx(found["same"].kl_mean, rel=1e-6)
    assert found["more"].top1 == found["same"].top1
    p = torch.softmax((same.hidden.double() @ same.head[:-30].double().T), -1)
    log_q = torch.log_softmax(logits[:, :-30], -1)
    expected = (p * (p.log() - log_q)).sum(-1).mean()
    assert found["fewer"].kl_mean == pytest.approx(float(expected), rel=1e-3)
    assert abs(found["fewer"].kl_mean - found["same"].kl_mean) > 1e-3


def test_documents_are_limited_to_the_budget():
    documents = [counted_from(torch.arange(10), 2), counted_from(torch.arange(20)), counted_from(torch.arange(5))]
    chosen = limit_documents(documents, 15)
    assert [d.kept for d in chosen] == [7, 8]
    assert [d.kept for d in limit_documents(documents, 1000)] == [7, 19, 4]


def test_recovered_shares_are_the_drop_won_back():
    def row(kind, mix, kl, ppl, runtime="llama.cpp"):
        quality = Quality(ppl=ppl, distances={"student": Distance(kl_mean=kl)})
        return Row(f"{kind} {runtime}", kind, mix, runtime, quality={"j": quality})

    rows = [
        row("float", None, 0.0, 10.0),
        row("rounded", "q4_0", 0.4, 14.0),
        row("recovered", "q4_0", 0.1, 11.0),
        row("recovered", "q4_0", 0.3, 13.0, "onnxruntime"),
    ]
    shares = recovered_shares(rows, ["j"])
    assert shares["q4_0"]["j"].kl_share == pytest.approx(0.75)
    assert shares["q4_0"]["j"].ppl_share == pytest.approx(0.75)
