"""What a model writes in an on-policy round, by llama.cpp, and its teacher's log-probabilities against transformers."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgedistill.config.on_policy import OnPolicy
from edgedistill.config.teach import Teach
from edgedistill.data.example import counted_from
from edgedistill.export.exports import export_float
from edgedistill.models.hf_folder import read_shape
from edgedistill.teach.own_text import Answering, own_kept, prompts_of, stops_of, write_own_text
from edgedistill.teach.writers import LlamaWriter, read_signals


@pytest.fixture(scope="module")
def file(talking_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "model.gguf"
    export_float(talking_llama, read_shape(talking_llama), out, {})
    return out


@pytest.fixture(scope="module")
def answering(talking_llama: Path) -> Answering:
    tokenizer = AutoTokenizer.from_pretrained(talking_llama)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"The {word} cat?"}], add_generation_prompt=True, return_dict=False
        )
        for word in ("old", "red", "small")
    ]
    stops = stops_of(tokenizer, Teach(), "talker", None)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in stops
    return Answering(prompts, OnPolicy(every=3), 60, 24, stops, parallel=4)


def test_prompts_are_what_stands_before_an_answer_each_once():
    tokens = torch.arange(20, dtype=torch.int32)
    chat, long, prose = counted_from(tokens, 11), counted_from(tokens, 14), counted_from(tokens + 50)
    unanswered = counted_from(tokens, 19)
    assert prompts_of([chat, chat, long, prose, unanswered], 14) == [list(range(12)), list(range(50, 58))]
    assert prompts_of([counted_from(tokens[:6])], 14) == []


def test_a_round_answers_its_prompts_until_there_are_enough_tokens(file: Path, answering: Answering):
    with LlamaWriter(file, 1, answering.room, 4) as writer:
        text, again, other = (write_own_text(writer, answering, seed) for seed in (7, 7, 8))
    assert 60 <= own_kept(text) < 60 + 25
    begun = [list(prompt) for prompt in answering.prompts]
    for example in text:
        first = int(example.positions[0])
        assert example.tokens[: first + 1].tolist() in begun
        assert example.kept == len(example.tokens) - 1 - first
        body = example.tokens[first + 1 :].tolist()
        assert len(body) == 24 or body[-1] in answering.stops
    assert [e.tokens.tolist() for e in again] == [e.tokens.tolist() for e in text]
    assert [e.tokens.tolist() for e in other] != [e.tokens.tolist() for e in text]


def test_the_teachers_log_probabilities_are_those_of_transformers(
    file: Path, answering: Answering, talking_llama: Path
):
    with LlamaWriter(file, 1, answering.room + 1, 4) as model_file:
        text = write_own_text(model_file, answering, 3)[:3]
        scored = read_signals(model_file, text, 5)
    model = AutoModelForCausalLM.from_pretrained(talking_llama)
    for example in scored:
        with torch.no_grad():
            logits = model(example.tokens.long()[None]).logits[0]
        expected = torch.log_softmax(logits.float(), -1)[example.positions]
        found = expected.gather(-1, example.signal["ids"].long())
        torch.testing.assert_close(found, example.signal["log_probs"].float(), rtol=0.02, atol=0.05)
