"""The server's ASGI application: who may ask, which paths there are, and refusals in OpenAI's form.

A web page of anybody can send requests to any server that a browser reaches. So a request without an API key must name
this server by an address, by localhost or by a name that was allowed, and the page that asks must be this machine's or
allowed too. Only the paths listed here exist.
"""

import hmac
import ipaddress
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import unquote, urlsplit

from edgedistill.serve.asgi import ClientLeftError, Headers, Receive, Scope, Send, SentAnswer, read_json
from edgedistill.serve.openai_api import CHAT, COMPLETION
from edgedistill.serve.refused import Refused
from edgedistill.serve.server import REQUEST
from edgedistill.serve.server_page import Health, static_answer

MODELS = "/v1/models"
EMBEDDINGS = "/v1/embeddings"
Answerer = Callable[[str, dict[str, object], Receive, SentAnswer], Awaitable[None]]


class ServerFront:
    """An ASGI application around what answers chats and completions.

    Args:
        health: what /health and the page at / say.
        answer: given the path, the JSON object of a question, ASGI's `receive` and what to send through.
        api_key: what a request must bring as its bearer token; None asks for none.
        origins: web pages that may ask beside those of this machine, as "https://example.org"; "*" lets all.
        hosts: names of this server beside localhost, in lower case.
    """

    def __init__(
        self,
        health: Health,
        answer: Answerer,
        api_key: str | None = None,
        origins: Sequence[str] = (),
        hosts: Sequence[str] = (),
    ) -> None:
        self.health = health
        self.answer = answer
        self.api_key = api_key
        self.origins = origins
        self.hosts = hosts
        self._created = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started, answer = time.perf_counter(), SentAnswer(send)
        try:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self.check_host(headers)
            answer.headers = self.cors(headers)
            if scope["method"] == "OPTIONS":
                await answer.plain(b"", 204, self.preflight())
                return
            static = static_answer(scope["method"], scope["path"], self.health)
            if static is not None:
                await answer.plain(static.body, 200, static.headers)
                return
            self.admit(headers)
            await self.route(scope, receive, answer)
        except Refused as refusal:
            await answer.refuse(refusal)
        except ClientLeftError:
            answer.status = None
        except RecursionError:
            await answer.refuse(Refused("the request is nested too deep"))
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 (the parent reads it)
            await answer.refuse(Refused("the server failed while it answered; its log says why", 500))
        finally:
            seconds = time.perf_counter() - started
            # A path is hostile text: as JSON it is one line.
            request = json.dumps(f"{scope['method']} {scope['path']}")[1:-1]
            print(f"{REQUEST}{request} {answer.status or 'left'}, {seconds:.1f} s", file=sys.stderr, flush=True)  # noqa: T201

    async def route(self, scope: Scope, receive: Receive, answer: SentAnswer) -> None:
        """Answer one of the paths.

        Raises:
            Refused: it is none of them, or not asked in this way.
        """
        method, path = scope["method"], scope["path"]
        if path in (CHAT, COMPLETION):
            require("POST", method)
            await self.answer(path, await read_json(receive), receive, answer)
        elif path == MODELS:
            require("GET", method)
            await answer.json({"object": "list", "data": [self.model()]})
        elif path.startswith(f"{MODELS}/"):
            require("GET", method)
            name = path.removeprefix(f"{MODELS}/")
            if self.health.model not in (name, unquote(name)):
                raise Refused(
                    f"there is no model {name[:100]!r}; this server has {self.health.model!r}", 404, "model_not_found"
                )
            await answer.json(self.model())
        elif path == EMBEDDINGS:
            raise Refused("embeddings are not offered: the model writes text", 404)
        else:
            raise Refused(
                f"there is no {path[:100]!r}; this server has {CHAT}, {COMPLETION}, {MODELS} and /health", 404
            )

    def model(self) -> dict[str, object]:
        """The one model, as OpenAI's API lists it."""
        return {"id": self.health.model, "object": "model", "created": self._created, "owned_by": "me"}

    def check_host(self, headers: dict[str, str]) -> None:
        """Refuse a request that was sent to another name: its owner may point it here after a page is loaded from it
        (DNS rebinding), and the browser then takes this server for that page's own. An API key says enough.

        Raises:
            Refused: 403.
        """
        host = headers.get("host")
        if host is None or self.api_key is not None or "*" in self.hosts:
            return
        name = host_name(host)
        if not is_address(name) and name != "localhost" and name not in self.hosts:
            raise Refused(
                f"this server isn't known as {name[:100]!r}; ask it by its address or as localhost, or start it with "
                "--allow-host and that name, or with an API key",
                403,
            )

    def admit(self, headers: dict[str, str]) -> None:
        """Refuse a page of another site, and a wrong key.

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
        if origin is not None and not self.lets(origin, headers.get("host", "")):
            raise Refused(
                f"pages of {origin[:200]} may not ask this server; start it with --allow-origin {origin[:200]}, or "
                "with an API key",
                403,
            )

    def lets(self, origin: str, host: str) -> bool:
        """Whether a page may ask: one of this machine, of this server, or an allowed one."""
        return bool({"*", origin} & set(self.origins)) or is_loopback(origin) or is_own_page(origin, host)

    def cors(self, headers: dict[str, str]) -> Headers:
        """What tells a browser that the page which asks may read the answer. With an API key every page may: it has the
        key from somebody.
        """
        origin = headers.get("origin")
        if origin is None or not (self.api_key is not None or self.lets(origin, headers.get("host", ""))):
            return []
        return [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]

    def preflight(self) -> Headers:
        """What a browser asks before it sends a question for another site's page."""
        return [
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"authorization, content-type, *"),
            (b"access-control-max-age", b"600"),
        ]


def require(expected: str, method: str) -> None:
    """Refuse another method.

    Raises:
        Refused: 405.
    """
    if method != expected:
        raise Refused(f"this path is for {expected}, not for {method[:20]}", 405)


def host_name(host: str) -> str:
    """The name in a Host header, in lower case, without port and last dot: "localhost" of "Localhost.:8080"."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def is_address(name: str) -> bool:
    """Whether a host is a number, which no name server answers for."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


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
