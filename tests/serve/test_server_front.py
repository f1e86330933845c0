"""What stands before the model: who may ask, bounds on what is sent, and answers that fail at each point."""

import asyncio
import json

import pytest

from edgedistill.runtimes.chat_defaults import ChatDefaults
from edgedistill.serve import asgi
from edgedistill.serve.openai_api import count_log_probs
from edgedistill.serve.openai_request import read_chat, read_completion
from edgedistill.serve.refused import Refused
from edgedistill.serve.server_front import ServerFront, host_name, is_own_page
from edgedistill.serve.server_page import Health

HEALTH = Health("tiny", "llama-cpp-python 0", 256, True, False)
VOCAB = 100

SCOPE = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [(b"host", b"127.0.0.1:1")]}


def run(answer, scope=SCOPE, body=b"{}", pause_s=0.0, **settings):
    """The messages that one request is answered with; `pause_s` lies between the parts of its body."""
    sent = []
    parts = [{"type": "http.request", "body": body[:1], "more_body": True}, {"type": "http.request", "body": body[1:]}]

    async def receive():
        await asyncio.sleep(pause_s)
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(ServerFront(HEALTH, answer, **settings)(scope, receive, send))
    return sent


async def whole(path, body, receive, answer):
    await answer.json({"path": path, "body": body})


def test_a_question_reaches_the_model_as_an_object():
    start, body = run(whole, body=b'{"a": 1}')
    assert start["status"] == 200
    assert json.loads(body["body"]) == {"path": "/v1/chat/completions", "body": {"a": 1}}


def test_a_stream_that_fails_ends_in_an_error_that_the_client_knows(capsys):
    async def failing(path, body, receive, answer):
        await answer.event({})
        raise ValueError("secret")

    start, first, error, last = run(failing)
    assert (start["status"], first["more_body"], last.get("more_body", False)) == (200, True, False)
    assert json.loads(error["body"].removeprefix(b"data: "))["error"]["type"] == "server_error"
    assert b"secret" not in error["body"]
    assert "ValueError: secret" in capsys.readouterr().err


def test_other_failures_before_and_after_an_answer():
    async def early(path, body, receive, answer):
        raise ValueError("secret")

    async def late(path, body, receive, answer):
        await answer.json({})
        raise ValueError("secret")

    start, body = run(early)
    assert start["status"] == 500
    assert "secret" not in body["body"].decode()
    assert [message["type"] for message in run(late)] == ["http.response.start", "http.response.body"]


def test_a_slow_body_and_a_big_one_are_refused_and_the_connection_closed(monkeypatch):
    monkeypatch.setattr(asgi, "BODY_S", 0.05)
    monkeypatch.setattr(asgi, "MAX_BODY_BYTES", 10)
    for status, messages in ((408, run(whole, pause_s=0.04)), (413, run(whole, body=b"[" * 11))):
        assert messages[0]["status"] == status
        assert (b"connection", b"close") in messages[0]["headers"]
        assert json.loads(messages[1]["body"])["error"]["type"] == "invalid_request_error"


def test_a_big_body_is_read_to_its_end_so_that_its_client_sees_the_refusal(monkeypatch):
    """Who is cut off while it sends sees a broken connection."""
    monkeypatch.setattr(asgi, "MAX_BODY_BYTES", 10)
    for most, left in ((100, 0), (30, 5)):
        monkeypatch.setattr(asgi, "MAX_PASSED_OVER_BYTES", most)
        parts = [{"type": "http.request", "body": b"[" * 10, "more_body": number < 8} for number in range(9)]

        async def receive(parts=parts):
            return parts.pop(0)

        with pytest.raises(Refused, match="longer than"):
            asyncio.run(asgi.read_json(receive))
        assert len(parts) == left


def test_a_request_nested_too_deep_is_refused_wherever_that_is_noticed():
    async def deep(path, body, receive, answer):
        raise RecursionError

    start, body = run(deep)
    assert start["status"] == 400
    assert json.loads(body["body"])["error"]["message"] == "the request is nested too deep"


def test_log_probabilities_beyond_what_an_answer_may_hold_are_refused():
    defaults = ChatDefaults()
    asked = {"prompt": ["x"] * 128, "logprobs": 20, "echo": True}
    prompts = [[1] * 4000] * 128
    few = read_completion({**asked, "logprobs": 1, "max_tokens": 1}, defaults, VOCAB)
    assert count_log_probs(few, prompts, 4096) == 128 * 4001 * 2
    assert count_log_probs(read_completion({**asked, "logprobs": None}, defaults, VOCAB), prompts, 4096) == 0
    for body in (asked, asked | {"max_tokens": 0}, asked | {"echo": False, "n": 1}):
        question = read_completion(body, defaults, VOCAB)
        with pytest.raises(Refused, match="log-probabilities, and 1048576 is the most"):
            count_log_probs(question, prompts if question.echo else [[1]] * 128, 4096)


@pytest.mark.parametrize(
    ("host", "settings", "status"),
    [
        ("127.0.0.1:8080", {}, 200),
        ("[::1]:8080", {}, 200),
        ("192.168.1.5", {}, 200),
        ("LocalHost.:8080", {}, 200),
        ("evil.example", {}, 403),
        ("localhost.evil.example:80", {}, 403),
        ("127.0.0.1.evil.example", {}, 403),
        ("[", {}, 403),
        ("", {}, 403),
        ("box.lan:8080", {"hosts": ["box.lan"]}, 200),
        ("evil.example", {"api_key": "s3cret"}, 200),  # whoever has the key may come by any name
    ],
)
def test_a_request_for_another_name_is_refused(host, settings, status):
    """The owner of a name can point it to this machine once a page of his is open in a browser."""
    headers = [(b"host", host.encode()), (b"authorization", b"Bearer s3cret")]
    for path in ("/v1/models", "/", "/health"):
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
        assert run(whole, scope, **settings)[0]["status"] == status


def test_a_page_that_may_ask_may_read_the_answer_and_no_other():
    def allowed(origin: bytes, method: str, **settings):
        scope = {**SCOPE, "method": method, "headers": [*SCOPE["headers"], (b"origin", origin)]}
        return dict(run(whole, scope, **settings)[0]["headers"]).get(b"access-control-allow-origin")

    for method in ("POST", "OPTIONS"):
        assert allowed(b"http://localhost:3000", method) == b"http://localhost:3000"
        assert allowed(b"https://example.org", method) is None
        assert allowed(b"https://example.org", method, origins=["https://example.org"]) == b"https://example.org"


def test_what_is_not_given_is_as_chat_has_it():
    defaults = ChatDefaults(temperature=0.6)
    found = read_completion({"prompt": ["x"], "temperature": None, "top_p": 0.5, "stop": None}, defaults, VOCAB)
    assert (found.prompts, found.sampling.temperature, found.sampling.top_p) == (["x"], 0.6, 0.5)
    assert read_completion({"prompt": [1, 2]}, defaults, VOCAB).prompts == [[1, 2]]
    assert read_completion({"prompt": [[1, 2], [3]]}, defaults, VOCAB).prompts == [[1, 2], [3]]
    for prompt in (None, [], ["a", 1], [1.5], [True], [[]], 5, {}):
        with pytest.raises(Refused, match="prompt must be a text"):
            read_completion({"prompt": prompt}, defaults, VOCAB)
    for prompt in ([VOCAB], [-1], [[1], [VOCAB]]):
        with pytest.raises(Refused, match="a token that the vocabulary of 100 lacks"):
            read_completion({"prompt": prompt}, defaults, VOCAB)


def test_a_conversation_gets_the_system_message_of_the_training_unless_it_has_one():
    defaults = ChatDefaults(temperature=0.6, system="Be brief.")
    asked = {"messages": [{"role": "user", "content": "Hi"}]}
    found = read_chat(asked, defaults, VOCAB)
    assert found.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert found.sampling.temperature == 0.6
    own = {"messages": [{"role": "developer", "content": "Be long."}, *asked["messages"]]}
    roles = [(each["role"], each["content"]) for each in read_chat(own, defaults, VOCAB).messages]
    assert roles == [("system", "Be long."), ("user", "Hi")]


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://192.168.1.5:8080", "192.168.1.5:8080", True),
        ("http://[fe80::1]:8080", "[fe80::1]:8080", True),
        ("http://192.168.1.5:8080", "192.168.1.6:8080", False),
        ("http://192.168.1.5:81", "192.168.1.5:8080", False),
        ("http://rebound.example:8080", "rebound.example:8080", False),  # a name may lead here after the page is loaded
        ("null", "null", False),
        ("http://[", "[", False),
    ],
)
def test_the_servers_own_page_may_ask_by_its_address_alone(origin: str, host: str, own: bool):
    assert is_own_page(origin, host) is own
    assert host_name("Box.LAN.:80") == "box.lan"
