"""Drafting in llama.cpp: the target's own text, what is accepted, what doesn't go together."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedistill.cli.bench import _draft_lines
from edgedistill.cli.main import cli
from edgedistill.errors import InputError
from edgedistill.measure.draft import own_prompts
from edgedistill.results.draft import DraftFigures
from edgedistill.runtimes.draft import DraftPair
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.speculative import Drafting
from tests.tiny import make_tiny, make_tiny_llama

PROMPTS = ["The old cat", "What is a house?", "Tell me of the sea."]


def packed(model: Path, folder: Path, mix: str, name: str) -> Path:
    words = ["export", str(model), "-m", mix, "-o", str(folder), "--name", name]
    assert CliRunner().invoke(cli, words).exit_code == 0
    return folder / f"{name}-{mix}.gguf"


@pytest.fixture(scope="module")
def target(talking_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(talking_llama, tmp_path_factory.mktemp("target"), "q8_0", "talker")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with the target's tokens, which guesses wrong."""
    folder = tmp_path_factory.mktemp("stranger")
    return packed(make_tiny_llama(folder / "model", layers=1), folder, "q8_0", "stranger")


def test_a_model_that_drafts_for_itself_is_always_accepted(target: Path):
    with DraftPair(target, target, threads=1) as pair:
        for prompt in PROMPTS:
            spoken = pair.speak(prompt, 40, Drafting(most=4, least_probability=0.0))
            assert spoken.drafted > 0
            assert spoken.accepted == spoken.drafted
            assert spoken.passes < len(spoken.tokens) / 3


def test_the_text_is_the_targets_own_greedy_text(target: Path, stranger: Path):
    with LlamaCpp(target, threads=1, context=256, parallel=1) as model:
        info = model.info()
        expected = []
        for prompt in PROMPTS:
            _, ids = model.apply_template([{"role": "user", "content": prompt}])
            expected.append(model.generate(ids, 40, stop_ids=info.stop_ids))
    with DraftPair(target, stranger, threads=1) as pair:
        for prompt, text in zip(PROMPTS, expected, strict=True):
            for drafting in (None, Drafting(most=3, least_probability=0.0)):
                spoken = pair.speak(prompt, 40, drafting)
                assert spoken.tokens == text
        wrong = pair.speak(PROMPTS[0], 40, Drafting(most=3, least_probability=0.0))
    assert wrong.accepted < wrong.drafted


def test_an_unsure_draft_model_proposes_nothing(target: Path, stranger: Path):
    with DraftPair(target, stranger, threads=1) as pair:
        spoken = pair.speak(PROMPTS[0], 20, Drafting(least_probability=1.0))
    assert spoken.drafted == 0
    assert spoken.passes == len(spoken.tokens) - 1


def test_other_tokens_are_refused(target: Path, tmp_path: Path):
    other = make_tiny("llama", tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    first, second = list(vocab)[40:42]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    file = packed(other, tmp_path, "q8_0", "other")
    with pytest.raises(InputError, match=r"token \d+ is .* in the target and .* in the draft model"):
        DraftPair(target, file, threads=1)


def test_bench_says_what_a_draft_model_is_worth(target: Path, stranger: Path):
    words = ["bench", str(target), "--draft", str(stranger), "--decode", "16", "--threads", "1"]
    done = CliRunner().invoke(cli, [*words, "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["prompts"] == len(own_prompts()) == 16
    assert figures["same_answers"] == 16
    assert figures["low"] <= figures["speedup"] <= figures["high"]
    shown = CliRunner().invoke(cli, words)
    assert "tokens/s with it" in shown.stdout
    assert ", 1 thread\n" in shown.stdout
    refused = CliRunner().invoke(cli, ["bench", str(target), "--prompts", "x.txt"])
    assert "--prompts is what --draft is tried on; give --draft too" in refused.stderr


@pytest.mark.parametrize(
    ("low", "high", "same", "said"),
    [
        (1.1, 1.4, 16, "1.20 times as fast (95 % interval 1.10 to 1.40); drafting pays here"),
        (0.6, 0.9, 16, "(95 % interval 0.60 to 0.90); drafting doesn't pay here"),
        (0.9, 1.3, 12, "whether drafting pays here isn't certain"),
    ],
)
def test_the_words_say_whether_it_pays(low: float, high: float, same: int, said: str):
    figures = DraftFigures(
        "s", "big.gguf", "small.gguf", 9, 4, "v", 2, 16, 8, 0.75, 99, 50, 20, 1.4, 12.0, 10.0, 1.2, low, high, same
    )
    words = _draft_lines(figures)
    assert said in words
    assert "target big.gguf (9 B), draft model small.gguf (4 B), 2 threads" in words
    assert ("rounds otherwise" in words) is (same < 16)


def test_a_prompts_file_is_asked(target: Path, stranger: Path, tmp_path: Path):
    (tmp_path / "asked.txt").write_text("\n".join(PROMPTS))
    words = ["bench", str(target), "--draft", str(stranger), "--prompts", str(tmp_path / "asked.txt"), "--json"]
    done = CliRunner().invoke(cli, [*words, "--decode", "8", "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["prompts"] == 3
