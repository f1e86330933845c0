"""HTTP that is odd: methods and paths, headers, bodies in chunks, pipelines, and bytes that are no HTTP at all."""

import contextlib
import random
from collections.abc import Callable

from edgedistill.serve.http_protocol import MOST_AHEAD_BYTES
from tests.faults.hostile_bodies import chat_of
from tests.faults.mutations import change_bytes
from tests.faults.served import CHAT, Served, answer_trouble, request, whole

WAIT_S = 0.5  # for an answer to what may need none
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "x" * 500)
PATHS = (
    "/",
    "/chat.js",
    "/health",
    "/v1/models",
    "/v1/models/",
    "/v1/models/%2e%2e%2f%00",
    "/v1/chat/completions/",
    "//v1/chat/completions",
    "/v1/chat/../completions",
    "/v1/completions?stream=true",
    "/v1/engines/x/embeddings",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/files",
    "/v1/audio/speech",
    "/extras/tokenize",
    "/extras/tokenize/count",
    "/extras/detokenize",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/metrics",
    "/slots",
    "/props",
    "/tokenize",
    "/completion",
    "/infill",
    "/.env",
    "/../../../etc/passwd",
    "/%ff%fe%00%0d%0aX: y",
    "*",
    "http://evil.example/v1/models",
    "/" + "a" * 5000,
)
HOSTS = ("evil.example", "127.0.0.1.evil.example:80", "", "[", "[::1", "a" * 3000, "localhost:99999999", "\xff\xfe")
ORIGINS = ("https://evil.example", "null", "file://", "http://[::", "http://localhost.evil.example", "\xff", "x" * 3000)
KINDS_OF_CONTENT = (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json; charset=utf-7",
    "",
    "x" * 2000,
)


def odd_paths(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Methods and paths, those of the library and of other servers among them."""
    method, path = rng.choice(METHODS), rng.choice(PATHS)
    body = rng.choice((b"", b"{}", b"[1]", b'{"tokens": [1000000]}', chat_of()))
    answer = server.exchange(request(method, path, body))
    return f"{method[:10]} {path[:60]}", answer_trouble(answer, head_alone=method == "HEAD")


def foreign_pages(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Requests of other sites' pages, by name or origin."""
    if rng.random() < 0.5:
        headers, path = {"Host": rng.choice(HOSTS)}, rng.choice((CHAT, "/", "/health", "/v1/models"))
    else:
        headers, path = {"Origin": rng.choice(ORIGINS)}, CHAT
    known = headers.get("Host") == "localhost:99999999"
    method = "POST" if path == CHAT else "GET"
    answer = server.exchange(request(method, path, chat_of(), headers))
    return f"{path} {str(headers)[:60]}", answer_trouble(answer, () if known else (400, 403))


def odd_headers(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Headers that are wrong, contradict each other, or are huge."""
    headers = rng.choice(
        (
            {"Content-Type": rng.choice(KINDS_OF_CONTENT)},
            {"Content-Length": rng.choice(("-1", "abc", "1, 2", "0x5", "9" * 30, ""))},
            {"Transfer-Encoding": rng.choice(("gzip", "chunked, chunked", "identity", "xchunked"))},
            {"Content-Encoding": "gzip"},
            {"Expect": rng.choice(("100-continue", "200-ok"))},
            {"Connection": "Upgrade", "Upgrade": rng.choice(("websocket", "h2c")), "Sec-WebSocket-Key": "x"},
            {"Authorization": rng.choice(("Bearer x", "Basic " + "x" * 500, "\xff\xfe"))},
            {"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"},
            {"X" * rng.choice((100, 10_000, 200_000)): "y"},
            {"X": "y" * rng.choice((100, 10_000, 200_000))},
            {f"X-{number}": "y" for number in range(rng.choice((50, 5000)))},
            {"Bad Name": "x"},
            {"X": "a\0b"},
            {"Host": "127.0.0.1\r\nHost: evil.example"},
        )
    )
    answer = server.exchange(request("POST", CHAT, chat_of(), headers))
    return str(headers)[:100], answer_trouble(answer)


def no_http(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Bytes that aren't HTTP, or another one than is spoken here."""
    data = rng.choice(
        (
            rng.randbytes(rng.choice((10, 1000, 30_000))) + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(50),
            b"GET /\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
            b"GET  / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\n\r\n",
            b"\r\n" * 20_000,
            change_bytes(request("POST", CHAT, chat_of()), rng, 60),
        )
    )
    answer = _cut(server, data)
    return repr(data[:60]), answer_trouble(answer) if answer else None


def chunks(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Bodies in chunks, right and wrong ones."""
    body = chat_of()
    size = rng.choice((1, 7, len(body)))
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    right = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    end = rng.choice((b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n"))
    what, sent = rng.choice(
        (
            ("right", right + end),
            ("with extensions", right.replace(b"\r\n", b";a=b\r\n", 1) + end),
            ("no number", b"zz\r\n" + body + b"\r\n" + end),
            ("negative", b"-5\r\n" + body + b"\r\n" + end),
            ("a huge number", b"f" * 40 + b"\r\n" + body),
            ("longer than it says", b"2\r\n" + body + b"\r\n" + end),
            ("endless extension", b"5;" + b"a" * 100_000),
        )
    )
    head = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT.encode()
    path = rng.choice((CHAT.encode(), b"/nowhere"))
    return f"{what}, to {path!r}", answer_trouble(server.exchange(head.replace(CHAT.encode(), path) + sent))


def pipelines(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """A request with more behind it: other requests, or garbage."""
    data = request("POST", CHAT, chat_of())
    more = rng.choice((data * 20, b"\r\n" * 5, rng.randbytes(100), b"x" * 500_000, request("GET", "/nowhere") * 300))
    answer = server.exchange(data + more)
    # Who sends too much before it is answered may be cut off.
    return f"then {more[:30]!r}", answer_trouble(answer) if answer or len(more) < MOST_AHEAD_BYTES else None


def big_bodies(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Bodies beyond what is read, to paths that read them and that don't."""
    body = b" " * rng.choice((8 << 20, (8 << 20) + 1, 20 << 20)) + chat_of()
    path = rng.choice((CHAT, "/nowhere"))
    return f"{len(body)} bytes to {path}", answer_trouble(server.exchange(request("POST", path, body)), (404, 413))


def _cut(server: Served, data: bytes) -> bytes:
    """What is answered when a client sends no more; b"" where the server still waits for the rest."""
    with server.connect() as sock:
        sock.settimeout(WAIT_S)
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError, BrokenPipeError):
            sock.sendall(data)
            while not whole(answer, False) and (part := sock.recv(1 << 16)):
                answer += part
        return answer


HTTP: tuple[Callable[[Served, random.Random], tuple[str, str | None]], ...] = (
    odd_paths,
    foreign_pages,
    odd_headers,
    no_http,
    chunks,
    pipelines,
    big_bodies,
)
