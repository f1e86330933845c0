"""The application in front of llama-cpp-python's server: it checks who may ask, puts requests into the form that the
library takes, and refuses in OpenAI's form.

The library answers a conversation that a template refuses, or one that is too long, with status 500; in a stream it has
sent 200 by then, and the connection breaks. So each request is read, checked and rendered here first, and a fault is
answered with a 4xx status and the body that the openai client expects.
"""

import hmac
import ipaddress
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool

from edgedistill.errors import InputError
from edgedistill.runtimes.chat_defaults import ChatDefaults
from edgedistill.runtimes.server import REQUEST
from edgedistill.runtimes.server_page import Health, static_answer

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MAX_BODY_BYTES = 32 << 20


class Refused(Exception):
    """A request that can't be answered, with what an answer says instead."""

    def __init__(self, message: str, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error" if status < 500 else "server_error"
        if status == 401:
            kind = "authentication_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class RequestFilter:
    """An ASGI application around the library's.

    Args:
        health: what /health and the page at / say.
        check: given the path and the JSON object of a question, returns the object to go on with, or raises Refused.
        api_key: what a request must bring as its bearer token; None asks for none.
        origins: web pages that may ask beside those of this machine, as "https://example.org"; "*" lets all.
    """

    def __init__(
        self,
        app: App,
        health: Health,
        check: Callable[[str, dict[str, Any]], dict[str, Any]],
        api_key: str | None = None,
        origins: Sequence[str] = (),
    ) -> None:
        self.app = app
        self.health = health
        self.check = check
        self.api_key = api_key
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, answer = time.perf_counter(), SentAnswer(send)
        try:
            static = static_answer(scope["method"], scope["path"], self.health)
            if static is not None:
                await answer.send({"type": "http.response.start", "status": 200, "headers": static.headers})
                await answer.send({"type": "http.response.body", "body": static.body})
                return
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self.admit(headers)
            if scope["path"] == EMBEDDINGS:
                raise Refused("embeddings are not offered: the model writes text", 404)
            if scope["method"] == "POST" and scope["path"] in (CHAT, COMPLETION):
                body = await read_json(receive)
                body = await run_in_threadpool(self.check, scope["path"], body)
                scope, receive = with_body(scope, receive, json.dumps(body).encode())
            await self.app(scope, receive, answer.send)
        except Refused as refusal:
            await answer.refuse(refusal)
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 (the parent reads it)
            await answer.refuse(Refused("the server failed while it answered; its log says why", 500))
        finally:
            seconds = time.perf_counter() - started
            # A path is hostile text: as JSON it is one line.
            request = json.dumps(f"{scope['method']} {scope['path']}")[1:-1]
            print(f"{REQUEST}{request} {answer.status or 'left'}, {seconds:.1f} s", file=sys.stderr, flush=True)  # noqa: T201

    def admit(self, headers: dict[str, str]) -> None:
        """Refuse a page of another site, which a browser lets ask any server that it reaches, and a wrong key.

        Raises:
            Refused: 403 or 401.
        """
        if self.api_key is not None:
            kind, _, key = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self.api_key.encode()):
                raise Refused(
                    "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'", 401, "invalid_api_key"
                )
            return
        origin = headers.get("origin")
        if origin is None or {"*", origin} & set(self.origins):
            return
        if not is_loopback(origin) and not is_own_page(origin, headers.get("host", "")):
            raise Refused(
                f"pages of {origin} may not ask this server; start it with --allow-origin {origin}, or with an API key",
                403,
            )


class SentAnswer:
    """What is sent back: its status, and whether a refusal can still be one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        self._stream = False
        self._ended = False

    async def send(self, message: dict[str, Any]) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._stream = any(
                name.lower() == b"content-type" and b"event-stream" in value for name, value in message["headers"]
            )
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, refusal: Refused) -> None:
        """Send a refusal: as an answer, or as the last event of a stream that has begun."""
        body = json.dumps(refusal.body)
        if self.status is None:
            data = body.encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
            if refusal.status == 401:
                headers.append((b"www-authenticate", b"Bearer"))
            await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": data})
        elif not self._ended:
            data = f"data: {body}\n\n".encode() if self._stream else b""
            await self.send({"type": "http.response.body", "body": data})


def is_loopback(origin: str) -> bool:
    """Whether a page is this machine's: "http://localhost:3000", "http://127.0.0.1", "http://[::1]:80"."""
    try:
        host = urlsplit(origin).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_own_page(origin: str, host: str) -> bool:
    """Whether a page came from this server, under a numeric address.

    A page under a host name doesn't count: the owner of a name can point it to this server after the page is loaded
    (DNS rebinding).
    """
    try:
        parts = urlsplit(origin)
        ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return False
    return parts.netloc == host


async def read_json(receive: Receive) -> dict[str, Any]:
    """The JSON object that a request brings.

    Raises:
        Refused: it is too big, or no JSON object.
    """
    data = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Refused("the request ended in its middle")
        data += message.get("body", b"")
        more = message.get("more_body", False)
        if len(data) > MAX_BODY_BYTES:
            raise Refused(f"the request is longer than {MAX_BODY_BYTES >> 20} MiB", 413)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the request is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise Refused('the request must be a JSON object, as {"messages": [...]}')
    return content


def with_body(scope: Scope, receive: Receive, body: bytes) -> tuple[Scope, Receive]:
    """The same request with another body; then `receive` goes on to tell when the client leaves."""
    headers = [
        (name, value) for name, value in scope["headers"] if name.lower() not in (b"content-length", b"content-type")
    ]
    headers += [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
    sent = False

    async def replay() -> dict[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return {**scope, "headers": headers}, replay


def plain_question(path: str, body: dict[str, Any], defaults: ChatDefaults) -> dict[str, Any]:
    """A request as llama-cpp-python's types have it, with the defaults where it says nothing of them.

    They are `edgedistill chat`'s, so that both answer alike; a conversation without a system message gets theirs.

    null is left out, for which OpenAI's API has "not given". `max_completion_tokens` is `max_tokens`, a json_schema is
    the schema of a json_object, a content in parts is their text, and a developer's message the system's.

    Raises:
        Refused: it asks for what isn't offered.
    """
    body = defaults.llama_sampling | {name: value for name, value in body.items() if value is not None}
    if body.pop("logprobs", False) not in (False, 0) or body.pop("top_logprobs", 0):
        raise Refused("log-probabilities are not offered; leave logprobs out", param="logprobs")
    if body.get("n", 1) != 1:
        raise Refused("one answer is made at a time; leave n out", param="n")
    if path == COMPLETION:
        prompt = body.get("prompt", "")
        body["prompt"] = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
        if not isinstance(body["prompt"], str):
            raise Refused("prompt must be one text", param="prompt")
        return body
    if "max_completion_tokens" in body:
        body["max_tokens"] = body.pop("max_completion_tokens")
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") == "json_schema":
        json_schema = response_format.get("json_schema")
        schema = json_schema.get("schema") if isinstance(json_schema, dict) else None
        if not isinstance(schema, dict):
            raise Refused("response_format has no json_schema.schema", param="response_format")
        body["response_format"] = {"type": "json_object", "schema": schema}
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("messages must be a list with at least one message", param="messages")
    plain = [plain_message(message, number) for number, message in enumerate(messages)]
    if defaults.system is not None and plain[0]["role"] != "system":
        plain.insert(0, {"role": "system", "content": defaults.system})
    body["messages"] = plain
    return body


def plain_message(message: Any, number: int) -> dict[str, Any]:
    """One message with its content as one text.

    Raises:
        Refused: it has other parts than text, or no role.
    """
    where = f"messages[{number}]"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Refused(f"{where} must be an object with role and content", param=where)
    content = message.get("content")
    if isinstance(content, list):
        texts = [_text_of_part(part) for part in content]
        if not all(isinstance(text, str) for text in texts):
            raise Refused(f"{where} has a part that is no text, and this model reads text alone", param=where)
        content = "\n".join(map(str, texts))
    if content is not None and not isinstance(content, str):
        raise Refused(f"{where} has a content that is no text", param=where)
    role = "system" if message["role"] == "developer" else message["role"]
    return {**message, "role": role, "content": content or ""}


def _text_of_part(part: object) -> object:
    """The text of a content part; None where the part isn't a text."""
    if isinstance(part, dict) and part.get("type") == "text":
        return part.get("text")
    return None


def as_refusal(error: InputError) -> Refused:
    """What the conversation's template says against it."""
    return Refused(str(error), param="messages")
