"""The server's HTTP on real sockets: its own refusals, and clients that are slow, leave, or send more than is asked."""

import asyncio
import json
import socket
import threading
import time

import pytest
import uvicorn

from edgedistill.serve import http_protocol
from edgedistill.serve.asgi import ClientLeftError, until_gone
from edgedistill.serve.http_protocol import TimedProtocol
from edgedistill.serve.server_front import ServerFront
from tests.serve.test_server_front import HEALTH

GET = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s"
CHUNKED = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMIT_S = 0.5


class Front:
    """The front with an answerer that does as the request says, and what came of it."""

    def __init__(self) -> None:
        self.left = threading.Event()

    async def answer(self, path, body, receive, answer) -> None:
        if body.get("wait"):
            await until_gone(receive)
            self.left.set()
            raise ClientLeftError
        for _ in range(body.get("events", 0)):
            await answer.event("x" * 1000)
        if body.get("events"):
            await answer.end()
        await answer.json({})


@pytest.fixture
def front(monkeypatch):
    for name in ("HEAD_S", "STALL_S"):
        monkeypatch.setattr(http_protocol, name, LIMIT_S)
    front = Front()
    app = ServerFront(HEALTH, front.answer)
    config = uvicorn.Config(app, http=TimedProtocol, lifespan="off", log_level="warning", timeout_keep_alive=2)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        front.port = listener.getsockname()[1]
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        yield front
        server.should_exit = server.force_exit = True
        thread.join()


def connect(front) -> socket.socket:
    return socket.create_connection(("127.0.0.1", front.port), timeout=10)


def read(sock) -> bytes:
    """Until the server closes."""
    data = b""
    while part := sock.recv(1 << 16):
        data += part
    return data


def closed(sock, sent=b"") -> bool:
    """Whether the server closes the connection in time, although bytes keep coming."""
    limit = time.monotonic() + 8 * LIMIT_S
    sock.settimeout(0.02)
    while time.monotonic() < limit:
        try:
            sock.sendall(sent)
            if not sock.recv(1 << 16):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000,
        b"GET / HTTP/1.1\r\nBad Name: x\r\n\r\n",
        GET.replace(b"Host", b"Content-Length: x\r\nHost"),
        CHUNKED % b"/v1/completions" + b"zz\r\n",
    ],
)
def test_what_is_no_http_is_refused_as_openai_says_it(front, data):
    with connect(front) as sock:
        sock.sendall(data)
        head, _, body = read(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"content-type: application/json" in head.lower()
    error = json.loads(body)["error"]
    assert (error["type"], error["message"][:29]) == ("invalid_request_error", "the request isn't valid HTTP:")


def test_a_damaged_rest_of_an_answered_request_is_no_fault_of_the_server(front, capfd):
    """The path is refused before its body is read."""
    with connect(front) as sock:
        sock.sendall(CHUNKED % b"/nowhere")
        answer = b""
        while not answer.endswith(b"}}"):  # head and body may come apart
            answer += sock.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 404")
        sock.sendall(b"zz\r\n")
        assert read(sock) == b""
    for _ in range(20):  # or at the same moment
        with connect(front) as sock:
            sock.sendall(CHUNKED % b"/nowhere" + b"zz\r\n")
            assert b'"invalid_request_error"' in read(sock)
    assert "Traceback" not in capfd.readouterr().err


def test_too_many_connections_are_refused_as_openai_says_it(front, monkeypatch):
    monkeypatch.setattr(http_protocol, "MOST_CONNECTIONS", 2)
    monkeypatch.setattr(http_protocol, "MOST_REFUSED", 1)
    socks = [connect(front) for _ in range(4)]
    for sock in socks:
        sock.settimeout(5)
    socks[2].sendall(GET)
    head, _, body = read(socks[2]).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert json.loads(body)["error"]["type"] == "server_error"
    socks[0].sendall(GET)
    assert socks[0].recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert closed(socks[3])  # beyond those that are told so
    for sock in socks:
        sock.close()


@pytest.mark.parametrize(
    "beginning",
    [b"", b"G", GET + b"G", b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999\r\n\r\n"],
)
def test_a_client_that_sends_a_byte_now_and_then_is_closed(front, beginning):
    """The first head, a later one, and the rest of a body that nobody reads."""
    with connect(front) as sock:
        sock.sendall(beginning)
        assert closed(sock, b"E" if beginning else b"")


def test_a_client_that_reads_nothing_is_closed(front):
    body = b'{"events": 30000}'
    with connect(front) as sock:
        sock.sendall(POST % (len(body), body))
        time.sleep(6 * LIMIT_S)
        assert b"0\r\n\r\n" not in read(sock)[-10:]


@pytest.mark.parametrize("trailing", [b"\r\n", b"x" * 100, GET])
def test_a_client_that_leaves_is_missed_whatever_it_sent_after_its_request(front, trailing):
    body = b'{"wait": true}'
    with connect(front) as sock:
        sock.sendall(POST % (len(body), body))
        time.sleep(0.1)
        sock.sendall(trailing)
        time.sleep(0.1)
    assert front.left.wait(5)


def test_requests_behind_each_other_are_answered_and_too_many_are_not(front):
    body = b'{"events": 3}'
    with connect(front) as sock:
        sock.sendall(GET * 3)
        data = b""
        while data.count(b"HTTP/1.1 200") < 3:
            data += sock.recv(1 << 16)
    body = b'{"wait": true}'
    with connect(front) as sock:
        sock.sendall(POST % (len(body), body))
        assert closed(sock, GET * 100)
