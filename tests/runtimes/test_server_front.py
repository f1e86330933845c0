"""What stands before the library's server, around applications that fail at each point."""

import asyncio
import json

import pytest

from edgedistill.runtimes.chat_defaults import ChatDefaults
from edgedistill.runtimes.server_front import Refused, RequestFilter, is_own_page, plain_question
from edgedistill.runtimes.server_page import Health

HEALTH = Health("tiny", "llama-cpp-python 0", 256, True, False)

SCOPE = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [(b"content-length", b"2")]}


def run(app, scope=SCOPE, body=b"{}", check=lambda path, body: body, **settings):
    """The messages that one request is answered with."""
    sent, asked = (
        [],
        iter(
            [{"type": "http.request", "body": body[:1], "more_body": True}, {"type": "http.request", "body": body[1:]}]
        ),
    )

    async def receive():
        return next(asked, {"type": "http.disconnect"})

    async def send(message):
        sent.append(message)

    asyncio.run(RequestFilter(app, HEALTH, check, **settings)(scope, receive, send))
    return sent


async def begin(send, kind):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", kind)]})


def test_a_stream_that_fails_ends_in_an_error_that_the_client_knows(capsys):
    async def app(scope, receive, send):
        await begin(send, b"text/event-stream; charset=utf-8")
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
        raise ValueError("secret")

    start, first, last = run(app)
    assert (start["status"], first["more_body"], last.get("more_body", False)) == (200, True, False)
    assert json.loads(last["body"].removeprefix(b"data: "))["error"]["type"] == "server_error"
    assert b"secret" not in last["body"]
    assert "ValueError: secret" in capsys.readouterr().err


def test_other_failures_before_and_after_an_answer():
    async def early(scope, receive, send):
        raise ValueError("secret")

    async def late(scope, receive, send):
        await begin(send, b"application/json")
        await send({"type": "http.response.body", "body": b"{}"})
        raise ValueError("secret")

    start, body = run(early)
    assert start["status"] == 500
    assert "secret" not in body["body"].decode()
    assert [message["type"] for message in run(late)] == ["http.response.start", "http.response.body"]


def test_the_library_gets_the_checked_body_and_hears_when_the_client_leaves():
    heard = []

    async def app(scope, receive, send):
        heard.append(dict(scope["headers"]))
        heard.append(await receive())
        heard.append(await receive())
        await begin(send, b"application/json")
        await send({"type": "http.response.body", "body": b"{}"})

    run(app, body=b'{"a": 1}', check=lambda path, body: body | {"b": path})
    body = b'{"a": 1, "b": "/v1/chat/completions"}'
    assert heard[0] == {b"content-length": str(len(body)).encode(), b"content-type": b"application/json"}
    assert heard[1] == {"type": "http.request", "body": body, "more_body": False}
    assert heard[2] == {"type": "http.disconnect"}


def test_what_is_not_given_is_as_chat_has_it():
    asked = {"prompt": ["x"], "temperature": None, "top_p": 0.5, "stop": None}
    found = plain_question("/v1/completions", asked, ChatDefaults())
    assert found == ChatDefaults().llama_sampling | {"prompt": "x", "top_p": 0.5}
    for prompt in ([], ["a", "b"], [1, 2], 5):
        with pytest.raises(Refused, match="prompt must be one text"):
            plain_question("/v1/completions", {"prompt": prompt}, ChatDefaults())


def test_a_conversation_gets_the_system_message_of_the_training_unless_it_has_one():
    defaults = ChatDefaults(temperature=0.6, system="Be brief.")
    asked = {"messages": [{"role": "user", "content": "Hi"}]}
    found = plain_question("/v1/chat/completions", asked, defaults)
    assert found["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert found["temperature"] == 0.6
    own = {"messages": [{"role": "developer", "content": "Be long."}, *asked["messages"]]}
    roles = [
        (each["role"], each["content"]) for each in plain_question("/v1/chat/completions", own, defaults)["messages"]
    ]
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
