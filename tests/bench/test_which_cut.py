"""Cuts compared: KL and perplexity against whole logits of transformers, and what the record says."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench import which_cut
from edgedistill.models.load import load_model
from tests.tiny import CORPUS


@pytest.fixture
def texts(tmp_path: Path) -> tuple[Path, Path]:
    text, judge = tmp_path / "text.txt", tmp_path / "judge.txt"
    text.write_text(" ".join(CORPUS * 2))
    judge.write_text(" ".join(reversed(CORPUS)))
    return text, judge


def test_kl_and_perplexity_are_those_of_whole_logits(talking_llama, tiny_llama, texts):
    examples = which_cut.pieces(tiny_llama, texts[1], 64, 192)
    assert [len(example.tokens) for example in examples] == [64, 64, 64]
    judge = which_cut.judged_by(load_model(talking_llama), examples, 64)
    found = which_cut.perplexity_and_kl(load_model(tiny_llama), judge, 64)
    ids = torch.tensor(AutoTokenizer.from_pretrained(tiny_llama)(texts[1].read_text())["input_ids"][:192]).view(3, 64)
    teacher, student = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (talking_llama, tiny_llama))
    with torch.no_grad():
        theirs, ours = (model(ids).logits[:, :-1].double().log_softmax(-1) for model in (teacher, student))
    kl = (theirs.exp() * (theirs - ours)).sum(-1).mean().item()
    perplexity = torch.exp(-ours.gather(-1, ids[:, 1:, None]).mean()).item()
    assert found == pytest.approx((kl, perplexity), rel=1e-4)
    same = which_cut.perplexity_and_kl(load_model(talking_llama), judge, 64)
    assert same[0] == pytest.approx(0, abs=1e-6)


def test_the_record_has_each_cut_before_and_after_training(talking_llama, texts, tmp_path, monkeypatch, capsys):
    out = tmp_path / "cuts.json"
    words = [
        str(talking_llama),
        "--text",
        str(texts[0]),
        "--judge",
        str(texts[1]),
        "--out",
        str(out),
        "--seq-len",
        "64",
    ]
    budgets = ["--tokens", "0,1024", "--ranking-tokens", "256", "--judge-tokens", "256", "--shares", "0.5"]
    monkeypatch.setattr(sys, "argv", ["which_cut.py", *words, *budgets, "--only", "depth; width; width, ffn alone"])
    which_cut.main()
    record = json.loads(out.read_text())
    assert record["command"].startswith("python bench/which_cut.py talking-llama --text text.txt --judge judge.txt")
    assert [row["cut"] for row in record["rows"]] == ["depth", "width"]
    assert "no student has at most 0.5" in capsys.readouterr().out
    for row in record["rows"]:
        assert row["share_made"] < 0.501
        before, after = row["results"]
        assert (before["tokens"], after["tokens"]) == (0, 1024)
        assert 0 < after["kl"] < before["kl"]
        assert before["train_seconds"] == 0 < after["train_seconds"]
