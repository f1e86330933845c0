"""Hostile clients of `edgedistill serve`: requests that are odd, damaged, slow, cut off or made to cost much.

Each is answered by a success or by a refusal in OpenAI's form, nothing fails in the server, its memory stays bounded,
and an ordinary request between them is answered soon.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.counts import Counts
from tests.faults.hostile_bodies import BODIES, chat_of
from tests.faults.hostile_http import HTTP
from tests.faults.leavers import LEAVERS, SlowClients
from tests.faults.material import Material
from tests.faults.served import CHAT, Served, answer_trouble, request
from tests.runtimes.conftest import write_gguf

TOOLS = "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}"
TURNS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
GROUP = 10  # requests of one kind between two ordinary ones, at most

Kind = Callable[[Served, random.Random], tuple[str, str | None]]
KINDS: tuple[Kind, ...] = (*BODIES, *HTTP, *LEAVERS)


def inject(material: Material, number: int, rng: random.Random) -> Counts:
    """So many hostile requests, the kinds in turn, and as many slow ones beside them as they need time."""
    counts = Counts("hostile clients")
    with Served(_file(material, "with-tools", TOOLS + TURNS)) as server:
        slow = SlowClients(server)
        group = max(1, min(GROUP, number // len(KINDS)))
        for start in range(0, number, group):
            kind = KINDS[start // group % len(KINDS)]
            for _ in range(min(group, number - start)):
                counts.add(*_trial(kind, server, rng))
            counts.add(f"after {kind.__name__}", server.trouble())
        for what, trouble in slow.end():
            counts.add(what, trouble)
        counts.add("the end", server.stop())
    with Served(_file(material, "without-tools", TURNS)) as server:
        for _ in range(max(1, number // 50)):
            counts.add(*_trial(tools_for_none, server, rng))
        counts.add("after tools for a template without", server.trouble())
    return counts


def tools_for_none(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Tools for a template that takes none: an answer without them would look as if they had been heeded."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    more = rng.choice(({}, {"tool_choice": "required"}, {"tool_choice": "auto"}, {"stream": True}))
    answer = server.exchange(request("POST", CHAT, chat_of(tools=[tool], **more)))
    return f"tools for a template without, {more}", answer_trouble(answer, (400,))


def _trial(kind: Kind, server: Served, rng: random.Random) -> tuple[str, str | None]:
    started = time.monotonic()
    try:
        what, trouble = kind(server, rng)
    except OSError as error:
        what, trouble = "", f"{type(error).__name__}: {error} after {time.monotonic() - started:.0f} s"
    return f"{kind.__name__}, {what}"[:200], trouble


def _file(material: Material, name: str, template: str) -> Path:
    return write_gguf(material.model, material.root / f"{name}.gguf", chat=template)
