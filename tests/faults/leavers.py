"""Clients that leave in the middle of a request or an answer, and clients that send or read too slowly."""

import json
import random
import socket
import threading
import time
from collections.abc import Callable

from tests.faults.hostile_bodies import chat_of, huge_chat
from tests.faults.served import CHAT, COMPLETION, HELLO, SOON_S, Served, answer_trouble, read_answer, request

BABBLE = {"logit_bias": {"0": -100, "1": -100, "2": -100}, "temperature": 1.5, "seed": 1}  # no end of text
SLOW_GRAMMAR = {"grammar": "root ::= " + " ".join(["[a-z]?"] * 300)}
SLOW_S = 75.0  # until every slow client must have been answered or cut off, on a machine with much to do
BYTE_S = 1.0  # between two bytes of a slow client


def leaves_while_sending(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """A request of which a part comes."""
    data = request("POST", CHAT, chat_of())
    count = rng.randrange(len(data))
    with server.connect() as sock:
        sock.sendall(data[:count])
    return f"after {count} bytes", None


def leaves_while_answered(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Long answers, streamed or not, to many clients that leave; then somebody asks."""
    fields = rng.choice(({}, {"n": 20}, SLOW_GRAMMAR))
    body = HELLO | BABBLE | fields | {"max_tokens": 250, "stream": rng.random() < 0.5}
    trailing = rng.choice((b"", b"\r\n", b"x" * 100, request("GET", "/v1/models")))
    socks = [server.connect() for _ in range(rng.choice((1, 6, 30)))]
    for sock in socks:
        sock.sendall(request("POST", CHAT, json.dumps(body).encode()) + trailing)
    time.sleep(rng.choice((0.0, 0.05, 0.5)))
    for sock in socks:
        if rng.random() < 0.3:  # the server's next write fails
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    what = f"{len(socks)} clients, {str(fields)[:30]}, stream {body['stream']}, then {trailing[:5]!r}"
    seconds = server.ask()
    return what, None if seconds < SOON_S else f"an ordinary request took {seconds:.0f} s"


def leaves_with_half_closed(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """A client that says it will send no more, as some do after a request."""
    with server.connect() as sock:
        sock.sendall(request("POST", CHAT, chat_of()))
        sock.shutdown(socket.SHUT_WR)
        answer = read_answer(sock)
    return "half closed", answer_trouble(answer) if answer else None


def leaves_with_huge_chats(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Conversations that no context holds, of several clients that leave; then somebody asks."""
    body = json.dumps(huge_chat(rng)).encode()
    socks = [server.connect() for _ in range(4)]
    for sock in socks:
        sock.sendall(request("POST", CHAT, body))
    time.sleep(rng.choice((0.0, 0.5)))
    for sock in socks:
        sock.close()
    seconds = server.ask()
    return f"4 clients with {body[:50]!r}", None if seconds < SOON_S else f"an ordinary request took {seconds:.0f} s"


LEAVERS: tuple[Callable[[Served, random.Random], tuple[str, str | None]], ...] = (
    leaves_while_sending,
    leaves_while_answered,
    leaves_with_half_closed,
    leaves_with_huge_chats,
)


class SlowClients:
    """Clients that hold connections open, beside all others; each must be answered or cut off in the end."""

    def __init__(self, server: Served) -> None:
        """Open them."""
        data = request("POST", CHAT, chat_of())
        endless = json.dumps({"prompt": "The", "n": 128, "max_tokens": 250, "stream": True, **BABBLE}).encode()
        first = request("GET", "/v1/models")
        refused = request("POST", "/nowhere", b"", {"Content-Length": "1000000"})
        beginnings = {
            "a head that doesn't come": b"",
            "a head that comes slowly": b"POST",
            "a body that doesn't come": data[:-5],
            "a body that comes slowly": data[:-150],
            "a second head that comes slowly": first + b"GET",
            "a refused body that comes slowly": refused,
            "an answer that is never read": request("POST", COMPLETION, endless),
        }
        self._started = time.monotonic()
        self._clients = [(what, server.connect(), data) for what, data in beginnings.items()]
        for _, sock, beginning in self._clients:
            sock.sendall(beginning)
            sock.setblocking(False)
        self._open = list(range(len(self._clients)))
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def end(self) -> list[tuple[str, str | None]]:
        """Wait until all are cut off; what is wrong with each."""
        self._thread.join()
        trouble = f"still connected after {SLOW_S:.0f} s"
        return [(what, trouble if number in self._open else None) for number, (what, *_) in enumerate(self._clients)]

    def _go_on(self) -> None:
        """Send a byte a second to those that aren't cut off."""
        while self._open and time.monotonic() - self._started < SLOW_S:
            self._open = [number for number in self._open if not self._ended(*self._clients[number][:2])]
            time.sleep(BYTE_S)
        for _, sock, _ in self._clients:
            sock.close()

    @staticmethod
    def _ended(what: str, sock: socket.socket) -> bool:
        """Whether the server has closed a connection."""
        reads = "never read" not in what
        try:
            if "slowly" in what or not reads:
                sock.send(b"x")
            while reads and sock.recv(1 << 16):
                pass
        except BlockingIOError:
            return False
        except OSError:
            return True
        return reads
