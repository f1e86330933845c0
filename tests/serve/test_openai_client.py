"""OpenAI's own client and its helpers against the server: tools, parsed answers, log-probabilities, token counts."""

import json

import numpy as np
import openai
import pytest
from pydantic import BaseModel, Field

from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.serve.server import ModelServer, ServeSettings
from tests.runtimes.conftest import write_gguf
from tests.serve.test_server import BABBLE, HELLO, client_of, post

TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% if tools | length > 1 %}<tool_call>{% endif %}{% endif %}"
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
)


class City(BaseModel):
    """What a tool takes, and what an answer holds."""

    name: str = Field(max_length=20)
    people: int = Field(ge=10, le=99)


class Place(BaseModel):
    """A schema whose parts refer to each other."""

    city: City


@pytest.fixture(scope="module")
def file(talking_llama, tmp_path_factory):
    return write_gguf(talking_llama, tmp_path_factory.mktemp("tools") / "talking.gguf", chat=TOOLS)


@pytest.fixture(scope="module")
def server(file):
    with ModelServer(file, ServeSettings(port=0, threads=1, context=2048)) as server:
        server.start()
        yield server


@pytest.fixture
def client(server):
    with client_of(server) as client:
        yield client


def test_a_model_is_retrieved_by_its_name(client):
    assert client.models.retrieve("talking").id == "talking"
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.models.retrieve("other")


TOOL = openai.pydantic_function_tool(Place, name="place")
NAMED = {"type": "function", "function": {"name": "place"}}
SHORT = {"messages": HELLO, "model": "any", "temperature": 0, "max_tokens": 200, "seed": 1}


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_must_be_made_fits_its_schema_streamed_or_not(client, choice):
    settings = SHORT | {"tools": [TOOL], "tool_choice": choice, "temperature": 1.5}
    whole = client.chat.completions.parse(**settings).choices[0]
    (call,) = whole.message.tool_calls
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    assert isinstance(call.function.parsed_arguments, Place)
    assert 10 <= call.function.parsed_arguments.city.people <= 99
    with client.chat.completions.stream(**settings) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert "tool_calls.function.arguments.done" in kinds
    assert streamed.function.parsed_arguments == call.function.parsed_arguments
    assert json.loads(streamed.function.arguments) == json.loads(call.function.arguments)


def test_a_call_that_the_limit_cuts_is_still_a_call(client):
    settings = SHORT | {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60}
    whole = client.chat.completions.create(**settings).choices[0]
    assert whole.finish_reason == "length"
    (call,) = whole.message.tool_calls
    assert call.function.name == "place"
    assert call.function.arguments.startswith('{"city": {"name": "')
    chunks = list(client.chat.completions.create(**settings, stream=True))
    deltas = [d for chunk in chunks for d in chunk.choices[0].delta.tool_calls or []]
    assert "".join(delta.function.arguments or "" for delta in deltas) == call.function.arguments


def test_an_answer_is_parsed_by_its_schema(client):
    settings = SHORT | {"response_format": Place, "temperature": 1.5}
    found = client.chat.completions.parse(**settings).choices[0].message
    assert 10 <= found.parsed.city.people <= 99
    with client.chat.completions.stream(**settings) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == found.content


def test_a_call_that_a_model_may_make_leaves_text_alone(client):
    for tools in ([TOOL], [TOOL, openai.pydantic_function_tool(City, name="city")]):  # the second with tags
        settings = SHORT | {"tools": tools, "max_tokens": 20, "extra_body": BABBLE}
        found = client.chat.completions.create(**settings).choices[0].message
        assert found.content
        assert not found.tool_calls
        chunks = list(client.chat.completions.create(**settings, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == found.content


def test_tools_for_a_template_that_takes_none_are_refused(talking_llama, tmp_path):
    path = write_gguf(talking_llama, tmp_path / "plain.gguf", chat="{{ messages[0]['content'] }}")
    with ModelServer(path, ServeSettings(port=0, threads=1)) as server, client_of(server) as client:
        server.start()
        with pytest.raises(openai.BadRequestError, match="takes no tools"):
            client.chat.completions.create(model="any", messages=HELLO, tools=[TOOL])
        settings = {"model": "any", "messages": HELLO, "tools": [TOOL], "tool_choice": "none", "max_tokens": 2}
        assert client.chat.completions.create(**settings).choices


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_ends_with_its_count_of_tokens_where_that_is_wanted(client, path):
    settings = {"model": "any", "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True}}
    if path == "/v1/completions":
        chunks = list(client.completions.create(prompt="The", **settings))
    else:
        chunks = list(client.chat.completions.create(messages=HELLO, **settings))
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].choices == []
    assert 0 < chunks[-1].usage.completion_tokens <= 4


def test_a_prompts_log_probabilities_are_the_models(server, client, file):
    """As lm-eval asks them: by token ids, several prompts at once, echoed, one token more."""
    with LlamaCpp(file, threads=1, context=256) as runtime:
        prompts = [runtime.tokenize("The old house"), runtime.tokenize("A cook likes the river and the fox")]
        found = client.completions.create(
            model="any", prompt=prompts, max_tokens=1, temperature=0, logprobs=1, echo=True, seed=1
        )
        assert [choice.index for choice in found.choices] == [0, 1]
        for ids, choice in zip(prompts, found.choices, strict=True):
            logits = runtime.logits(ids).astype(np.float64)
            norms = np.log(np.exp(logits).sum(axis=1))
            expected = [logits[place - 1, token] - norms[place - 1] for place, token in enumerate(ids)][1:]
            got = choice.logprobs
            assert got.token_logprobs[0] is None
            assert len(got.tokens) == len(ids) + 1
            np.testing.assert_allclose(got.token_logprobs[1:-1], expected, atol=1e-3)
            best = [max(top.values()) for top in got.top_logprobs[1:]]
            np.testing.assert_allclose(best, logits.max(axis=1) - norms, atol=1e-3)
            assert "".join(got.tokens[: len(ids)]) == runtime.detokenize(ids, special=True)
            assert got.text_offset[1] == len(got.tokens[0])
    scored = post(server, {"prompt": prompts[0], "max_tokens": 0, "logprobs": 0, "echo": True}, "/v1/completions")[2]
    assert scored["usage"]["completion_tokens"] == 0
    assert len(scored["choices"][0]["logprobs"]["tokens"]) == len(prompts[0])


def test_a_chats_log_probabilities_are_sorted_and_sum_to_less_than_one(client):
    settings = {"model": "any", "messages": HELLO, "max_tokens": 6, "temperature": 0, "logprobs": True}
    whole = client.chat.completions.create(**settings, top_logprobs=5).choices[0]
    tokens = whole.logprobs.content
    assert "".join(token.token for token in tokens) == whole.message.content
    for token in tokens:
        values = [top.logprob for top in token.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert token.logprob == values[0]  # the likeliest was taken
        assert sum(map(np.exp, values)) < 1.0001
    chunks = client.chat.completions.create(**settings, top_logprobs=5, stream=True)
    streamed = [t for chunk in chunks for c in chunk.choices if c.logprobs for t in c.logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in tokens]


def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(client):
    settings = {"model": "any", "messages": HELLO, "max_tokens": 30, "extra_body": BABBLE}
    whole = client.chat.completions.create(**settings).choices[0].message.content
    stop = whole[4:7]
    cut = client.chat.completions.create(**settings, stop=["never that", stop]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(stop)], "stop")
    chunks = client.chat.completions.create(**settings, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == cut.message.content


def test_several_answers_to_one_question_differ_by_their_seed(client):
    settings = {"model": "any", "prompt": "The", "max_tokens": 12, "temperature": 1.5, "n": 3, "seed": 7}
    texts = [choice.text for choice in client.completions.create(**settings).choices]
    assert len(set(texts)) == 3
    assert texts == [choice.text for choice in client.completions.create(**settings).choices]
