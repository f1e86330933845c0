"""The server on tiny files, on free loopback ports, asked through the openai client and by hand."""

import http.client
import json
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import openai
import psutil
import pytest

from edgedistill.errors import InputError, RunError, RuntimeDiedError
from edgedistill.export.gguf.write import float_checkpoint
from edgedistill.export.gguf.write import write_gguf as write_ours
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.runtimes.chat_defaults import ChatDefaults
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.serve.messages import read_messages
from edgedistill.serve.server import ModelServer, ServeSettings, bind
from tests.runtimes.conftest import write_gguf
from tests.templates.test_render import TEMPLATES
from tests.tiny import CHAT_TEMPLATE, make_tiny
from tests.tokenizers import byte_level, sentencepiece, write_folder

BOS = ["<s>", "$A"]
# Google's, by what it writes: no system role, turns must alternate, "model" for the assistant.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') "
    "}}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = "
    "message['role'] %}{% endif %}"
    "{{ '<|user|>' + role + '\n' + message['content'] | trim + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|user|>model\n'}}{% endif %}"
)
PLAIN = "{% for m in messages %}{{ '<|user|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}{{ '<|assistant|>\n' }}"
KINDS = {  # family, tokenizer, template; all but the first ask for a bos
    "chatml": ("llama", lambda: byte_level("smollm"), CHAT_TEMPLATE),
    "llama 3": ("llama", lambda: byte_level("llama-bpe", template=BOS), TEMPLATES["llama3"]),
    "gemma": ("gemma3_text", lambda: sentencepiece("none", runs_added=True, template=BOS), GEMMA),
    "no bos in the template": ("mistral", lambda: sentencepiece("first", template=BOS), PLAIN),
}
CONVERSATIONS = [
    [{"role": "user", "content": "  Hi there,\n\n what's  it?"}],
    [
        {"role": "user", "content": "Naïve 中文 12345 🚀?"},
        {"role": "assistant", "content": " Yes.\n"},
        {"role": "user", "content": "<|end|>x</s>"},
    ],
]


def ask(server, messages, **settings):
    """Through OpenAI's own client, which retries nothing here."""
    with client_of(server) as client:
        settings = {"model": "any", "max_tokens": 8, "temperature": 0, **settings}
        return client.chat.completions.create(messages=messages, **settings)


def stream(server, messages, **settings):
    """The pieces of text of a streamed answer."""
    with client_of(server) as client:
        settings = {"model": "any", "max_tokens": 8, "temperature": 0, **settings}
        for chunk in client.chat.completions.create(messages=messages, stream=True, **settings):
            yield chunk.choices[0].delta.content or ""


def client_of(server, key="none"):
    return openai.OpenAI(base_url=server.url, api_key=key, max_retries=0, timeout=30)


def post(server, body, path="/v1/chat/completions", method="POST", **headers):
    """Status, headers and JSON of one plain request."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, dict(answer.getheaders()), json.loads(text or b"null")
    finally:
        connection.close()


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    """A file of ours, its tokenizer in transformers, and its server."""
    family, make, template = KINDS[request.param]
    data, room = make(), tmp_path_factory.mktemp("kind")
    folder = make_tiny(family, room / "model", vocab_size=len(data["model"]["vocab"]) + 3, pad_token_id=3)
    (folder / "chat_template.jinja").unlink()
    write_folder(folder, data, {"chat_template": template}, {"eos_token_id": [2, 6]})
    state = load_model(folder).state_dict()
    shape = read_shape(folder)
    checkpoint = float_checkpoint({tensor.name: state[tensor.name] for tensor in shape.tensors()}, "f32")
    path = write_ours(checkpoint, folder, shape, room / "model.gguf", {"name": "Tiny"})
    with ModelServer(path, ServeSettings(port=0, threads=1, context=256)) as server:
        prompts = [server.prompt(messages) for messages in CONVERSATIONS]
        server.start()
        yield request.param, load_tokenizer(folder), server, prompts, path


def test_a_chat_has_transformers_ids(kind):
    name, tokenizer, server, prompts, path = kind
    with LlamaCpp(path, threads=1, context=256, parallel=1) as runtime:
        for messages, (text, ids) in zip(CONVERSATIONS, prompts, strict=True):
            expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
            assert text == tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            assert ids == expected
            assert ids.count(tokenizer.bos_token_id) == (name in ("llama 3", "gemma"))
            assert runtime.apply_template(messages) == (text, ids)  # so does `edgedistill chat`
            assert ask(server, messages).usage.prompt_tokens == len(expected)


def test_the_model_is_asked_with_those_ids_and_says_what_transformers_says(kind):
    """Greedy answers: other ids would give another answer of random weights."""
    _, tokenizer, server, prompts, path = kind
    with LlamaCpp(path, threads=1, context=256, parallel=1) as runtime:
        for messages, (_, ids) in zip(CONVERSATIONS, prompts, strict=True):
            made = runtime.generate(ids, 8, stop_ids=None)
            expected = runtime.detokenize(made)
            found = ask(server, messages).choices[0]
            assert found.message.content == expected.replace("\ufffd", "") or "\ufffd" in expected
            assert found.finish_reason == ("stop" if made[-1] in runtime.info().stop_ids else "length")


def test_a_template_that_refuses_is_a_400_and_the_server_goes_on(kind):
    name, _, server, *_ = kind
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    if name != "gemma":
        assert ask(server, messages).choices
        return
    for stream in (False, True):
        with pytest.raises(
            openai.BadRequestError, match="its chat template refuses this conversation: System role not supported"
        ):
            ask(server, messages, stream=stream)
    assert ask(server, messages[1:]).choices[0].message.content is not None


def test_a_foreign_file_gets_the_bos_that_its_template_leaves_out(hf_folder, tmp_path):
    """As llama.cpp's own programs do: published files have it cut out of the template."""
    cut = write_gguf(hf_folder, tmp_path / "cut.gguf", add_bos=True, chat="{{ 'Q: ' + messages[0]['content'] }}")
    whole = write_gguf(
        hf_folder, tmp_path / "whole.gguf", add_bos=True, chat="{{ bos_token + 'Q: ' + messages[0]['content'] }}"
    )
    found = []
    for path in (cut, whole):
        settings = ServeSettings(port=0, threads=1)
        with ModelServer(path, settings) as server, LlamaCpp(path, threads=1, context=64) as runtime:
            found.append(server.prompt(CONVERSATIONS[0]))
            assert runtime.apply_template(CONVERSATIONS[0]) == found[-1]
            assert runtime.tokenize(found[-1][0].removeprefix("<|im_start|>"), add_bos=True) == found[-1][1]
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def lines():
    """What the server below logs."""
    return []


@pytest.fixture(scope="module")
def file(talking_llama, tmp_path_factory):
    """A tiny model that writes sentences."""
    return write_gguf(talking_llama, tmp_path_factory.mktemp("talking") / "talking.gguf")


@pytest.fixture(scope="module")
def server(file, lines):
    """One server on it, in front of several tests."""
    with ModelServer(file, ServeSettings(port=0, threads=1), on_request=lines.append) as server:
        assert (server.served.name, server.served.context, server.served.trained) == ("talking", 256, 256)
        server.start()
        yield server


HELLO = [{"role": "user", "content": "Hello there"}]
BABBLE = {"logit_bias": {"0": -100, "1": -100, "2": -100}, "temperature": 1.5, "seed": 1}  # no end of text
ENDLESS = {"grammar": "root ::= [a-z ]{900}"}  # no token ends it before


def test_a_request_that_names_none_gets_the_sampling_and_system_message_of_the_settings(file):
    """Greedy sampling by top_p alone, and a system message that changes the answer."""
    led = [{"role": "system", "content": "Hello"}, *HELLO]
    settings = ServeSettings(port=0, threads=1, defaults=ChatDefaults(temperature=1.0, top_p=0.01, system="Hello"))
    with ModelServer(file, settings) as server, client_of(server) as client:
        server.start()
        found = client.chat.completions.create(model="any", messages=HELLO, max_tokens=20).choices[0].message.content
    with LlamaCpp(file, threads=1, context=128) as runtime:
        assert found == "".join(runtime.chat(led, max_tokens=20))
        assert found != "".join(runtime.chat(HELLO, max_tokens=20))


def test_openais_client_lists_asks_and_streams(server, file):
    with client_of(server) as client:
        assert [model.id for model in client.models.list()] == ["talking"]
        whole = client.chat.completions.create(model="talking", messages=HELLO, temperature=0, max_tokens=20)
        chunks = list(
            client.chat.completions.create(model="talking", messages=HELLO, temperature=0, max_tokens=20, stream=True)
        )
        text = client.completions.create(model="talking", prompt="The old", temperature=0, max_tokens=5).choices[0].text
    with LlamaCpp(file, threads=1, context=128) as runtime:
        expected = "".join(runtime.chat(HELLO, max_tokens=20))
        assert text == runtime.detokenize(runtime.generate(runtime.tokenize("The old"), 5))
    assert whole.choices[0].message.content == expected
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert len(chunks) > 5
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert whole.usage.prompt_tokens + whole.usage.completion_tokens == whole.usage.total_tokens


def test_what_clients_send_back_of_an_answer_is_read_as_the_template_expects_it():
    call = {"id": "1", "index": 0, "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    call["function"]["parsed_arguments"] = {"a": 1}
    nothing = {"audio": None, "function_call": None, "refusal": None, "annotations": [], "parsed": {"a": 1}}
    given = [
        {"content": "Hi", "role": "user", "name": "me"},
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [call], **nothing},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
        {"role": "assistant", "refusal": "No."},
    ]
    _, answer, *_, refusal = read = read_messages(given, None)
    assert list(read[0]) == ["content", "role", "name"]
    assert refusal == {"role": "assistant", "content": "No."}
    assert set(answer) == {"role", "content", "reasoning_content", "tool_calls"}
    assert answer["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert read[2] == given[2]


def test_newer_words_of_the_api_are_understood(server):
    found = ask(server, [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    assert found == ask(
        server, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    ).model_copy(update={"id": found.id, "created": found.created})
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]}]
    assert ask(server, parts).usage == ask(server, [{"role": "user", "content": "Hello\nthere"}]).usage
    assert ask(server, HELLO, max_tokens=openai.omit, max_completion_tokens=3).usage.completion_tokens == 3
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert ask(server, HELLO, max_tokens=40, response_format=form).choices[0].message.content.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{no json", 400, "the request is no JSON"),
        (b"[1]", 400, "the request must be a JSON object"),
        (b"[" * 100_000, 400, "the request is no JSON"),
        ({}, 400, "messages must be a list with at least one message"),
        ({"messages": [{"role": "user"}, "x"]}, 400, r"messages[1] must be an object with role and content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages[0].role must be one of system"),
        ({"messages": [{"role": "user", "content": "x", "foo": 1}]}, 400, "'messages[0].foo' is not known here"),
        ({"messages": [{"role": "user", "content": "x", "name": 5}]}, 400, "messages[0].name must be a text"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, 400, "messages[0].audio is not offered"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "foo": 1}]}]},
            400,
            "'messages[0].content[0].foo' is not known here",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "foo": 1}}]}]},
            400,
            "'messages[0].tool_calls[0].function.foo' is not known here",
        ),
        ({"messages": HELLO, "response_format": {"type": "text", "foo": 1}}, 400, "'response_format.foo' is not known"),
        (
            {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {"schema": {}, "foo": 1}}},
            400,
            "'response_format.json_schema.foo' is not known here",
        ),
        (
            {"messages": HELLO, "tool_choice": {"type": "function", "function": {"name": "f"}, "foo": 1}},
            400,
            "'tool_choice.foo' is not known here",
        ),
        ({"messages": HELLO, "temperature": "hot"}, 400, "temperature must be a number from 0 to 2"),
        (b'{"messages": [], "temperature": NaN}', 400, "NaN is no number"),
        ({"messages": HELLO, "top_logprobs": 2, "stream": True}, 400, "top_logprobs needs logprobs true"),
        ({"messages": HELLO, "n": 0}, 400, "n must be a whole number from 1"),
        ({"messages": HELLO, "n": 2, "grammar": 'root ::= "a"'}, 400, "is made alone; leave n out"),
        ({"messages": HELLO, "max_tokens": 0}, 400, "max_tokens must be a whole number from 1"),
        ({"messages": HELLO, "stop": [5]}, 400, "stop must be a text or a list of texts"),
        ({"messages": HELLO, "stream_options": {"include_usage": True}}, 400, "is for stream true"),
        ({"messages": HELLO, "functions": [{"name": "f"}]}, 400, "functions is the old form of tools"),
        ({"messages": HELLO, "temprature": 1}, 400, "'temprature' is not known here; leave it out. Did you mean"),
        ({"messages": HELLO, "service_tier": "priority"}, 400, "service_tier is not offered"),
        ({"messages": HELLO, "response_format": {"type": "xml"}}, 400, "must be text, json_object or json_schema"),
        ({"messages": HELLO, "grammar": 'root ::= "a"\0'}, 400, "grammar must be a text in GBNF"),
        ({"messages": HELLO, "grammar": "root ::= [z-a]"}, 400, "the grammar allows no token"),
        ({"messages": HELLO, "grammar": "root ::= ("}, 400, "the grammar has an error"),
        ({"messages": HELLO, "grammar": 'noroot ::= "x"'}, 400, "the grammar has an error, or no rule 'root'"),
        ({"messages": HELLO, "logit_bias": {"999999": 1}}, 400, "logit_bias names token '999999'"),
        ({"messages": HELLO, "logit_bias": {"9" * 5000: 1}}, 400, "logit_bias names token '9999"),
        ({"messages": HELLO, "logit_bias": {"5": "much"}}, 400, "5 must be a number from -100 to 100"),
        ({"messages": HELLO, "grammar": 'root ::= root "a"'}, 400, "the grammar has an error"),
        (
            {"messages": HELLO, "response_format": {"type": "json_object", "schema": {"$ref": "http://127.0.0.1/x"}}},
            400,
            "the JSON schema can't be followed: Resource",
        ),
        (
            {"messages": HELLO, "stream": True, "tool_choice": {"type": "function", "function": {"name": "g"}}},
            400,
            "tool_choice names 'g', which is none of the tools",
        ),
        ({"messages": [{"role": "user", "content": "word " * 300}], "stream": True}, 400, "and the context holds 256"),
        ({"messages": [{"role": "user", "content": "a\ud800"}]}, 400, "half of a surrogate pair"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400,
            "reads text alone",
        ),
    ],
)
def test_what_is_wrong_with_a_question_is_said_as_openai_says_it(server, body, status, words):
    found, headers, answer = post(server, body)
    assert (found, headers["content-type"]) == (status, "application/json")
    assert answer["error"]["type"] == "invalid_request_error"
    assert words in answer["error"]["message"]
    assert ask(server, HELLO).choices[0].message.content  # it goes on


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"text": "y" * 60_000})}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": [{"role": "user", "content": "word " * 300}]}, "tokens and the context holds 256"),
        ({"messages": HELLO * 257}, "has 257 messages, parts and tool calls, and the context holds 256"),
        ({"messages": [{"role": "user", "content": "a" * 60_000}]}, "has 60001 characters and the context of 256"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL]}]}, "characters and the context of 256"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 256}]}, "has 257 messages, parts"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}] * 256}]}, "has 257 messages, parts and tool calls"),
        ({"prompt": "a" * 60_000}, "has 60000 characters and the context of 256 tokens"),
    ],
)
def test_a_conversation_too_long_has_openais_code(server, body, words):
    _, _, answer = post(server, body, "/v1/completions" if "prompt" in body else "/v1/chat/completions")
    assert answer["error"]["code"] == "context_length_exceeded"
    assert words in answer["error"]["message"]


def test_clients_that_left_cost_no_rendering(talking_llama, tmp_path):
    """Of those that wait for the template, only the one whose conversation is being rendered does."""
    count = "{% for a in range(5000) %}{% for b in range(4000) %}{% endfor %}{% endfor %}"
    template = "{% for m in messages %}{% if m.content == 'slow' %}" + count + "{% endif %}{{ m.content }}{% endfor %}"
    path = write_gguf(talking_llama, tmp_path / "slow.gguf", chat=template)
    lines: list[str] = []
    with ModelServer(path, ServeSettings(port=0, threads=1), on_request=lines.append) as server:
        server.start()
        slow = [http.client.HTTPConnection(server.host, server.port) for _ in range(8)]
        for connection in slow:
            connection.request(
                "POST", "/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": "slow"}]})
            )
        time.sleep(0.1)
        for connection in slow:
            connection.close()
        assert post(server, {"messages": HELLO, "max_tokens": 1})[0] == 200
        limit = time.monotonic() + 10
        while len(lines) < 9 and time.monotonic() < limit:
            time.sleep(0.01)
    *others, rendered = sorted(float(line.split(", ")[1].split()[0]) for line in lines if " left, " in line)
    assert len(others) == 7
    assert max(others) < rendered / 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/extras/detokenize", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/other", 404),
        ("POST", "/v1/embeddings", 404),
        ("POST", "//v1/completions", 404),
    ],
)
def test_only_the_listed_paths_exist(server, method, path, status):
    found, _, answer = post(server, {"tokens": [10**6]}, path=path, method=method)
    assert found == status
    assert answer["error"]["type"] == "invalid_request_error"
    assert ask(server, HELLO).choices[0].message.content


def test_embeddings_are_refused(server):
    with client_of(server) as client, pytest.raises(openai.NotFoundError, match="embeddings are not offered"):
        client.embeddings.create(model="talking", input="x")


def test_the_path_of_the_file_is_told_to_nobody(server):
    for name in (None, "gpt-4"):
        assert post(server, {"messages": HELLO, "max_tokens": 1, "model": name})[2]["model"] == "talking"


def test_two_at_once_both_get_their_whole_answer(server):
    """The library would end the first where the second comes."""
    wanted = {"max_tokens": 150, "extra_body": ENDLESS}
    pieces = stream(server, HELLO, **wanted)
    found = [next(pieces), ""]

    def read():
        found[1] = "".join(stream(server, HELLO, **wanted))

    thread = threading.Thread(target=read)
    thread.start()
    found[0] += "".join(pieces)
    thread.join()
    alone = ask(server, HELLO, **wanted)
    assert alone.usage.completion_tokens == 150
    assert found == [alone.choices[0].message.content] * 2


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_the_model(file, streamed):
    """With one answer at once, the next would wait for the end of an abandoned one."""
    with ModelServer(file, ServeSettings(port=0, threads=1, parallel=1, context=8192)) as server:
        server.start()
        body = {"messages": HELLO, "max_tokens": 8000, "stream": streamed, **BABBLE}
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        if streamed:
            connection.getresponse().read(100)
        else:
            time.sleep(0.3)
        connection.close()
        started = time.monotonic()
        assert ask(server, HELLO, max_tokens=1).choices
        assert time.monotonic() - started < 2


def test_several_are_answered_at_once_and_the_rest_after_them(file):
    with ModelServer(file, ServeSettings(port=0, threads=1, parallel=2)) as server, client_of(server) as client:
        server.start()
        settings = {"model": "any", "messages": HELLO, "max_tokens": 150, "stream": True, "extra_body": BABBLE}
        first, second = (client.chat.completions.create(**settings) for _ in range(2))
        next(first), next(second)  # the second has begun before the first has ended
        third = ask(server, HELLO)
        assert third.usage.completion_tokens
        texts = ["".join(chunk.choices[0].delta.content or "" for chunk in stream) for stream in (first, second)]
        assert all(len(text) > 100 for text in texts)


def test_a_request_for_many_answers_holds_up_no_other(file):
    """Those that wait come in turns, a request that has begun fewer answers first."""
    with ModelServer(file, ServeSettings(port=0, threads=1, parallel=2)) as server:
        server.start()
        many = {"prompt": "The", "n": 60, "max_tokens": 150, **BABBLE}
        took = []

        def ask_for_many():
            started = time.monotonic()
            post(server, many, path="/v1/completions")
            took.append(time.monotonic() - started)

        thread = threading.Thread(target=ask_for_many)
        thread.start()
        time.sleep(0.2)
        started = time.monotonic()
        assert ask(server, HELLO).choices
        waited = time.monotonic() - started
        thread.join()
        assert waited < took[0] / 4


@pytest.fixture
def roomy(file):
    """A server whose answers may be long."""
    with ModelServer(file, ServeSettings(port=0, threads=1, context=8192)) as server:
        server.start()
        yield server


@contextmanager
def asked_at_once(server, number, **fields):
    """Connections on which long streamed answers begin; closed at the end."""
    with ExitStack() as stack:
        connections = []
        for _ in range(number):
            sock = stack.enter_context(socket.create_connection((server.host, server.port), timeout=30))
            body = json.dumps({"prompt": "The", "max_tokens": 8000, "stream": True, **BABBLE, **fields})
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.sendall((head + body).encode())
            time.sleep(0.05)
            connections.append(sock)
        yield connections


def test_a_thousand_answers_that_wait_turn_nobody_away(roomy):
    with asked_at_once(roomy, 9, n=128, max_tokens=100):
        assert ask(roomy, HELLO, max_tokens=1).choices


def test_log_probabilities_that_would_fill_memory_are_refused_until_others_have_theirs(roomy):
    many = {"n": 6, "logprobs": 20}  # a million
    with asked_at_once(roomy, 9, **many) as connections:
        answer = connections[-1].recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"the server is busy with other log-probabilities" in answer
    time.sleep(1)
    with asked_at_once(roomy, 1, **many) as connections:
        assert connections[0].recv(12) == b"HTTP/1.1 200"


def test_pages_of_other_sites_may_not_ask(server):
    question = {"messages": HELLO, "max_tokens": 1}
    for origin in ("http://localhost:3000", "http://127.0.0.1:9", "http://[::1]:80"):
        assert post(server, question, Origin=origin)[0] == 200
    for origin in ("https://example.org", "null", "http://localhost.example.org", "http://[::"):
        status, _, answer = post(server, question, Origin=origin)
        assert status == 403
        assert "--allow-origin" in answer["error"]["message"]


def test_requests_are_logged_in_one_harmless_line(server, lines):
    post(server, {}, path="/%1b%5b31m%0arequest:%20GET")
    deadline = time.monotonic() + 10
    while not any("31m" in line for line in lines) and time.monotonic() < deadline:
        time.sleep(0.01)
    (line,) = [line for line in lines if "31m" in line]
    assert line.startswith("POST /\\u001b[31m\\nrequest: GET 404, ")


def test_it_listens_on_loopback_alone(server):
    found = [c.laddr for c in psutil.Process(server.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert found == [("127.0.0.1", server.port)]
    with socket.create_connection(("127.0.0.1", server.port)), pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)


def test_a_key_is_asked_for_and_origins_can_be_allowed(file):
    origins = ["https://example.org"]
    settings = ServeSettings(port=0, threads=1, api_key="s3cret", name="my model", origins=origins)
    with ModelServer(file, settings) as server:
        server.start()
        for key in ("wrong", "s3cret2", ""):
            with (
                client_of(server, key or "-") as client,
                pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"),
            ):
                client.models.list()
        assert post(server, {"messages": HELLO})[0] == 401
        assert post(server, b"{no json")[0] == 401  # nothing is looked at before the key
        with client_of(server, "s3cret") as client:
            assert [model.id for model in client.models.list()] == ["my model"]
    with ModelServer(file, ServeSettings(port=0, threads=1, origins=["https://example.org"])) as server:
        server.start()
        assert post(server, {"messages": HELLO, "max_tokens": 1}, Origin="https://example.org")[0] == 200


def test_the_environment_sets_nothing(file, monkeypatch):
    """The library reads its settings from variables with everyday names."""
    for name, value in {
        "API_KEY": "x",
        "N_CTX": "17",
        "HOST": "0.0.0.0",
        "CONFIG_FILE": "/nowhere",
        "Cache": "true",
        "SEED": "x",
    }.items():
        monkeypatch.setenv(name, value)
    with ModelServer(file, ServeSettings(port=0, threads=1)) as server:
        server.start()
        assert server.host == "127.0.0.1"
        assert ask(server, HELLO).choices[0].message.content


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_is_killed_is_one_sentence_and_one_that_is_stopped_none(file, how):
    with ModelServer(file, ServeSettings(port=0, threads=1)) as server:
        server.start()
        child = psutil.Process(server.pid)
        (rendering,) = child.children()  # of the template
        threading.Timer(0.3, child.send_signal, [how]).start()
        if how == signal.SIGTERM:
            server.wait()
        else:
            with pytest.raises(
                RuntimeDiedError, match=r"talking.gguf: the runtime's process ended by SIGKILL during 'wait'"
            ):
                server.wait()
    assert not psutil.wait_procs([rendering], timeout=10)[1]
    assert not child.is_running()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((server.host, server.port), timeout=5)


def test_stopping_lets_a_short_answer_end_and_no_long_one_hold_it(file):
    with ModelServer(file, ServeSettings(port=0, threads=1)) as server:
        server.start()
        pieces = stream(server, HELLO, max_tokens=200, extra_body=ENDLESS)
        next(pieces)
        started = time.monotonic()
        server.stop()
        server.wait()
        assert time.monotonic() - started < 6
        pieces.close()


def test_a_file_without_template_completes_and_refuses_chats(hf_folder, tmp_path):
    path = write_gguf(hf_folder, tmp_path / "plain.gguf", template=False)
    with ModelServer(path, ServeSettings(port=0, threads=1)) as server:
        assert not server.served.has_template
        server.start()
        with pytest.raises(openai.BadRequestError, match="it has no chat template"):
            ask(server, HELLO)
        assert post(server, {"prompt": "The", "max_tokens": 2}, path="/v1/completions")[0] == 200


def test_files_that_cannot_be_served_are_one_sentence(hf_folder, gguf_file, tmp_path):
    broken = write_gguf(hf_folder, tmp_path / "broken.gguf", chat="{% for x in messages %}")
    with pytest.raises(InputError, match=r"broken.gguf: its chat template has an error in line 1"):
        ModelServer(broken, ServeSettings(port=0))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf_file.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"cut.gguf: tensor '.*' ends at byte \d+, the file at byte \d+"):
        ModelServer(cut, ServeSettings(port=0))
    for at in range(24, 4000, 1100):  # anything may be wrong in it: never more than a sentence
        data = bytearray(gguf_file.read_bytes()[:200_000])
        data[at : at + 8] = np.random.default_rng(at).bytes(8)
        (tmp_path / "random.gguf").write_bytes(data)
        with pytest.raises((InputError, RunError), match=r"random.gguf"):
            ModelServer(tmp_path / "random.gguf", ServeSettings(port=0))
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(InputError, match=r"it isn't a GGUF file, which begins with the letters GGUF"):
        ModelServer(tmp_path / "text.gguf", ServeSettings(port=0))


def test_addresses_that_cannot_be_had_are_one_sentence(gguf_file):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"127.0.0.1:{port}: this port is in use; choose another --port"):
            ModelServer(gguf_file, ServeSettings(port=port))
    with pytest.raises(InputError, match=r"--host no.such.host.invalid: no such address"):
        bind("no.such.host.invalid", 0)
    with pytest.raises(InputError, match=r"192.0.2.1:0: this machine has no such address"):
        bind("192.0.2.1", 0)
    with bind("localhost", 0) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"


def test_hostile_answers_are_json_and_nothing_else(hf_folder, tmp_path):
    """A model that writes escapes, tags and halves of characters."""
    path = write_gguf(hf_folder, tmp_path / "hostile.gguf", name="\x1b]0;owned\x07<script>")
    with ModelServer(path, ServeSettings(port=0, threads=1, context=64)) as server:
        server.start()
        for grammar in ('root ::= "\\x1b[2J<script>" [\\x00-\\x1f]*', "root ::= [\\u0080-\\U0010ffff]*"):
            body = {"messages": HELLO, "max_tokens": 24, "temperature": 1.5, "grammar": grammar}
            status, headers, answer = post(server, body)
            assert (status, headers["content-type"]) == (200, "application/json")
            assert isinstance(answer["choices"][0]["message"]["content"], str)
            # Surrogates are among what the second grammar allows: bytes that make no character.
            settings = {"max_tokens": 24, "extra_body": {"grammar": grammar}}
            whole = ask(server, HELLO, **settings).choices[0].message.content
            assert "".join(stream(server, HELLO, **settings)) == whole
            assert ("\ufffd" in whole) == ("U0010" in grammar)


def test_paths_need_not_be_plain(gguf_file, tmp_path):
    path = tmp_path / "a b\n'é.gguf"
    path.write_bytes(gguf_file.read_bytes())
    with ModelServer(path, ServeSettings(port=0, threads=1)) as server:
        server.start()
        assert ask(server, HELLO).model == "a b\n'é"
