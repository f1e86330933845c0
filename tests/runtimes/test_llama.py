"""llama.cpp in its child, against transformers on the same float weights and against itself."""

import json

import numpy as np
import pytest

from edgedistill.errors import InputError
from edgedistill.runtimes.llama import LlamaCpp, widen
from edgedistill.runtimes.sampling import BatchSettings
from edgedistill.runtimes.speed import SpeedSettings
from tests.runtimes.conftest import write_gguf
from tests.tiny import CORPUS

CACHE_ERROR = 0.03  # llama.cpp keeps keys and values in float16; these logits have a spread of 2
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def log_softmax(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_logits_are_transformers(llama, float_logits):
    tokens = llama.tokenize(CORPUS[0])
    np.testing.assert_allclose(llama.logits(tokens), float_logits(tokens), atol=CACHE_ERROR)


def test_logit_chunks_carry_the_positions(gguf_file, float_logits):
    with LlamaCpp(gguf_file, threads=1, context=64) as model:
        tokens = (model.tokenize(" ".join(CORPUS)) * 9)[
            :600
        ]  # longer than a batch of 512, and than the context asked for
        pieces = list(model.logit_chunks(tokens, first=300))
    assert [(start, len(rows)) for start, rows in pieces] == [(300, 128), (428, 84), (512, 88)]
    np.testing.assert_allclose(
        np.concatenate([rows for _, rows in pieces]), float_logits(tokens)[300:], atol=CACHE_ERROR
    )


@pytest.mark.parametrize("text", CORPUS[:5])
def test_token_ids_are_the_tokenizers(llama, hf_folder, text):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(hf_folder)
    ids = llama.tokenize(text + "<|im_end|>")
    assert ids == tokenizer(text + "<|im_end|>", add_special_tokens=False)["input_ids"]
    assert llama.detokenize(ids, special=True) == text + "<|im_end|>"
    assert llama.detokenize(ids) == text
    assert len(llama.tokenize("<|im_end|>", special=False)) > 1


def test_template_text_is_transformers(llama, hf_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(hf_folder)
    text, ids = llama.apply_template(QUESTION)
    assert text == tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_greedy_tokens_are_transformers(llama, float_logits):
    tokens = llama.tokenize(CORPUS[1])
    made = llama.generate(tokens, 12)
    followed = float_logits(tokens + made).argmax(-1)[len(tokens) - 1 : -1]
    assert made == followed.tolist()


def test_batch_returns_the_log_probabilities_of_what_it_drew(llama, float_logits):
    prompts = [llama.tokenize(text)[: 5 + 4 * index] for index, text in enumerate(CORPUS[:5] + CORPUS[:2])]
    settings = BatchSettings(temperature=1.0, top_p=0.9, top_k=6, prompt_logprobs=True, stop_ids=())
    found = llama.generate_batch(prompts, [9, 3, 12, 1, 7, 8, 2], settings)
    for prompt, generation, count in zip(prompts, found, [9, 3, 12, 1, 7, 8, 2], strict=True):
        assert (len(generation.tokens), generation.finish) == (count, "length")
        assert [len(generation.prompt_top_ids), len(generation.top_ids)] == [len(prompt) - 1, count]
        expected = log_softmax(float_logits(prompt + generation.tokens))[:-1]
        ids = np.concatenate([generation.prompt_top_ids, generation.top_ids])
        logp = np.concatenate([generation.prompt_top_logp, generation.top_logp])
        assert (ids.dtype, logp.dtype) == (np.int32, np.float16)
        assert ids.shape == (len(prompt) + count - 1, 6)
        np.testing.assert_allclose(logp, np.take_along_axis(expected, ids, 1), atol=CACHE_ERROR)
        np.testing.assert_allclose(logp, -np.sort(-expected, axis=1)[:, :6], atol=CACHE_ERROR)


def test_batch_depends_on_its_arguments_alone(llama):
    prompts = [llama.tokenize(text)[:6] for text in CORPUS[:5]] * 2
    settings = BatchSettings(temperature=1.0, top_k=3)
    first = llama.generate_batch(prompts, 20, settings, range(10))
    order = [index for index, _ in llama.generate_stream(prompts, 20, settings, range(10))]
    llama.generate(prompts[0], 5)
    again = llama.generate_batch(prompts, 20, settings, range(10))
    other = llama.generate_batch(prompts, 20, settings, range(10, 20))
    assert [g.tokens for g in first] == [g.tokens for g in again] != [g.tokens for g in other]
    assert all(
        (a.top_logp == b.top_logp).all() and (a.top_ids == b.top_ids).all() for a, b in zip(first, again, strict=True)
    )
    assert first[0].tokens != first[5].tokens  # the same prompt with another seed
    assert order == [index for index, _ in llama.generate_stream(prompts, 20, settings, range(10))]
    assert llama.generate_batch([], 5) == []


def test_a_slot_forgets_the_sequence_before(gguf_file):
    with LlamaCpp(gguf_file, threads=1, context=64, parallel=1) as model:
        prompts = [model.tokenize(text)[:8] for text in CORPUS[:3]]
        together = model.generate_batch(prompts, 10, BatchSettings(stop_ids=()))
        assert [g.tokens for g in together] == [model.generate(prompt, 10) for prompt in prompts]


def test_stop_token_ends_the_text_and_is_kept(llama):
    prompt = llama.tokenize(CORPUS[2])
    free = llama.generate(prompt, 10, stop_ids=())
    stop = free[4]
    [found] = llama.generate_batch([prompt], 10, BatchSettings(stop_ids=[stop], top_k=2))
    assert found.tokens == free[: free.index(stop) + 1]
    assert found.finish == "stop"
    assert len(found.top_ids) == len(found.tokens)


def test_chat_streams_what_generate_gives(llama):
    text, ids = llama.apply_template(QUESTION)
    made = llama.generate(ids, 16, temperature=0.8, seed=3, stop_ids=None)
    pieces = list(llama.chat(QUESTION, max_tokens=16, temperature=0.8, seed=3))
    assert "".join(pieces) == llama.detokenize(made)
    assert len(pieces) > 1
    assert (llama.last_chat.prompt_tokens, llama.last_chat.tokens) == (len(ids), len(made))


def test_chat_ends_at_the_files_stop_token(llama, hf_folder, tmp_path):
    made = llama.generate(llama.apply_template(QUESTION)[1], 12)
    stop = next(token for token in made[2:] if token not in made[:2])
    path = write_gguf(hf_folder, tmp_path / "stops.gguf", eos=stop)
    with LlamaCpp(path, threads=1, context=128) as model:
        text = "".join(model.chat(QUESTION, max_tokens=12))
        assert text == model.detokenize(made[: made.index(stop)])
        assert (model.last_chat.finish, model.last_chat.tokens) == ("stop", made.index(stop) + 1)


def test_an_answer_may_be_left_in_the_middle(llama):
    stream = llama.chat(QUESTION, max_tokens=60)
    next(stream)
    stream.close()
    assert llama.tokenize("a") == llama.tokenize("a")


def test_info_tells_what_the_file_says(llama, hf_folder):
    info = llama.info()
    config = json.loads((hf_folder / "config.json").read_text())
    assert (info.vocab, info.n_ctx_train) == (config["vocab_size"], config["max_position_embeddings"])
    assert (info.runtime, info.bos_id, info.eos_id) == ("llama.cpp", 1, 2)
    assert 2 in info.stop_ids
    assert info.chat_template == (hf_folder / "chat_template.jinja").read_text()
    assert (info.add_bos, info.architecture, info.name) == (False, "llama", "tiny")
    assert info.load_s > 0
    assert 0 < info.rss_bytes <= llama.peak_rss_bytes()


def test_speed_counts_every_trial(llama):
    speeds = llama.speed(SpeedSettings(prefill=20, decode=6, repetitions=3))
    for test, tokens in ((speeds.prefill, 20), (speeds.decode, 6)):
        assert test.tokens == tokens
        assert len(test.trials) == 3
        for trial in test.trials:
            assert trial.tokens_per_s == pytest.approx(tokens / trial.wall_s)
            assert trial.cpu_s > 0
    assert llama.speed(SpeedSettings(prefill=0, decode=2, repetitions=1)).prefill is None


def test_widened_file_holds_the_same_weights(gguf_file, llama, tmp_path):
    copy = tmp_path / "wide.gguf"
    widen(gguf_file, copy, "f32", threads=1)
    with LlamaCpp(copy, threads=1, context=64) as model:
        tokens = model.tokenize(CORPUS[0])[:20]
        assert (model.logits(tokens) == llama.logits(tokens)).all()
    assert [path.name for path in tmp_path.iterdir()] == ["wide.gguf"]
    with pytest.raises(
        InputError, match=r"file type 'bf61' is unknown; it must be one of f32, f16, bf16. Did you mean 'bf16'\?"
    ):
        widen(gguf_file, copy, "bf61")


@pytest.mark.parametrize(
    ("prompts", "settings", "seeds", "words"),
    [
        ([[5, 6], []], {}, None, "prompt 1: there is no token; give at least one"),
        ([[5, 99999]], {}, None, "prompt 0: token 99999 is not in the vocabulary of "),
        (
            [[5] * 120],
            {},
            None,
            "prompt 0 has 120 tokens and may grow by 10; the context holds 128. Open the file with a larger context",
        ),
        ([[5]], {"top_p": 0.0}, None, "temperature is 0.0 and top_p is 0.0; they must be >= 0 and in (0, 1]"),
        ([[5]], {"top_k": 99999}, None, "top_k is 99999; it must be between 0 and the vocabulary of "),
        ([[5]], {}, [1, 2], "1 prompts came with 1 limits and 2 seeds; give one each"),
        ([[5]], {"prompt_logprobs": True}, None, "top_k is 0; it must be between 1"),
    ],
)
def test_wrong_input_is_one_sentence_and_the_child_lives_on(llama, prompts, settings, seeds, words):
    with pytest.raises(InputError) as caught:
        llama.generate_batch(prompts, 10, BatchSettings(**settings), seeds)
    assert words in str(caught.value)
    assert llama.generate([5], 2)


def test_no_template_is_one_sentence(hf_folder, tmp_path):
    path = write_gguf(hf_folder, tmp_path / "plain.gguf", template=False)
    with LlamaCpp(path, threads=1, context=64) as model:
        assert model.info().chat_template is None
        with pytest.raises(InputError, match="plain.gguf: it has no chat template"):
            list(model.chat(QUESTION))


def test_long_conversation_is_one_sentence(llama):
    with pytest.raises(InputError, match="the conversation has [0-9]+ tokens and the context holds 128"):
        list(llama.chat([{"role": "user", "content": CORPUS[0] * 8}]))
