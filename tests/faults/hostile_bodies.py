"""Bodies of requests that are odd: fields of other types and sizes, damaged JSON, grammars, schemas and tools that cost
much.
"""

import json
import random
from collections.abc import Callable
from typing import Any

from tests.faults.mutations import ODD, change_bytes, change_node
from tests.faults.served import CHAT, COMPLETION, HELLO, Served, answer_trouble, request

MORE_ODD: tuple[Any, ...] = (
    10**400,
    -(10**30),
    1e-320,
    "9" * 5000,
    "\0",
    "a" * 300_000,
    [None],
    ["x"] * 5000,
    {"": None},
    {"type": "function"},
)
COMMON: dict[str, Any] = {
    "model": "any",
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "repeat_penalty": 1.1,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "logit_bias": {"5": 1, "7": -100},
    "seed": 1,
    "stop": ["x", "yz"],
    "n": 2,
    "stream": True,
    "stream_options": {"include_usage": True},
    "user": "me",
    "metadata": {"a": "b"},
    "store": False,
    "service_tier": "auto",
    "grammar": 'root ::= "a"',
}
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Finds.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"where": {"type": "string", "maxLength": 5}, "how": {"enum": ["a", "b"]}},
            "required": ["where"],
            "additionalProperties": False,
        },
    },
}
CALL = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"where": "x"}'}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hello"}], "name": "me"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "there", "tool_call_id": "1"},
]
FORM = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": TOOL["function"]["parameters"], "strict": True},  # type: ignore[index]
}
CHAT_FIELDS: dict[str, Any] = {
    **COMMON,
    "messages": HELLO["messages"],
    "max_tokens": 4,
    "max_completion_tokens": 4,
    "logprobs": True,
    "top_logprobs": 3,
    "tools": [TOOL],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "response_format": FORM,
    "modalities": ["text"],
    "functions": [],
    "function_call": "none",
}
COMPLETION_FIELDS: dict[str, Any] = {
    **COMMON,
    "prompt": "The old",
    "max_tokens": 4,
    "logprobs": 3,
    "echo": True,
    "suffix": "",
    "best_of": 1,
    "input": "x",
    "dimensions": 5,
}


def chat_of(**fields: Any) -> bytes:
    """The body of a short chat with other fields."""
    return json.dumps(HELLO | fields).encode()


def odd_fields(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Fields that are known, with values of other types and sizes."""
    path, known, base = rng.choice(
        ((CHAT, CHAT_FIELDS, HELLO), (COMPLETION, COMPLETION_FIELDS, {"prompt": "The old", "max_tokens": 4}))
    )
    fields = {name: rng.choice((*ODD, *MORE_ODD)) for name in rng.sample(sorted(known), rng.choice((1, 1, 2)))}
    body = json.dumps(base | fields).encode()
    return f"{path} {str(fields)[:100]}", answer_trouble(server.exchange(request("POST", path, body)))


def odd_nodes(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """A request with much in it, one part of which is replaced or left out."""
    body: dict[str, Any] = {"messages": TALK, "max_tokens": 4, "seed": 1, "stream": rng.random() < 0.5}
    body |= rng.choice(({"tools": [TOOL], "tool_choice": "required"}, {"response_format": FORM}, {"tools": [TOOL]}))
    changed = change_node(json.loads(json.dumps(body)), rng)
    data = json.dumps(changed).encode()
    return data.decode()[:150], answer_trouble(server.exchange(request("POST", CHAT, data)))


def damaged_json(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Bytes that are no JSON, or JSON at its edges."""
    body = chat_of(seed=1)
    depth = rng.choice((50, 300, *range(900, 1000, 7), 5000, 200_000))
    left, right = rng.choice((("[", "]"), ('{"a":', "}")))
    nest = left * depth + ("1" if left != "[" else "") + right * depth
    field = rng.choice(("seed", "user", "tools", "messages", "response_format", "stop", "metadata"))
    message = {"role": "user", "content": "Hi", "name": "NEST"}
    choices: tuple[bytes, ...] = (
        change_bytes(body, rng),
        change_bytes(body, rng),
        body + b"x",
        b"\xef\xbb\xbf" + body,
        body.decode().encode("utf-16"),
        body.replace(b"Hello", b"\xff\xfe\xc3"),
        body.replace(b"Hello", rb"\ud800\udfff\u0000"),
        body[:-1] + b', "seed": 2, "messages": 5}',
        body[:-1] + b', "temperature": ' + rng.choice((b"NaN", b"-Infinity", b"1e400", b"1" * 6000)) + b"}",
        json.dumps(HELLO | {field: "NEST"}).replace('"NEST"', nest).encode(),
        json.dumps(HELLO | {"messages": [message]}).replace('"NEST"', nest).encode(),
        nest.encode(),
    )
    data = rng.choice(choices)
    return repr(data[:120]), answer_trouble(server.exchange(request("POST", CHAT, data)))


def grammars(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Grammars that are wrong, endless, or cost much."""
    many = rng.choice((10, 300, 5000))
    grammar = rng.choice(
        (
            "root ::= " + "(" * many,
            "root ::= " + " ".join(["[a-z]?"] * many),
            "root ::= " + '("a" | ' * many + '"b"' + ")" * many,
            'root ::= root "a" | "a"',
            'root ::= a\na ::= b\nb ::= a | "x"',
            "root ::= [z-a]",
            f'root ::= "a"{{{many * 1000},{10**9}}}',
            'root ::= (("a"*)*)*',
            'root ::= "a" |',
            "root ::= " + '"' + "\\" * many + '"',
            'root ::= "\ud800"',
            "root ::= [^]*",
            "root ::= missing",
            "\n".join(f"r{number} ::= r{number + 1} r{number + 1}" for number in range(60)) + "\nroot ::= r0",
            "".join(rng.choice('root ::= "ab"[]()*+?{}|\\\n.^-0') for _ in range(many)),
        )
    )
    body = chat_of(grammar=grammar, stream=rng.random() < 0.3)
    return grammar[:100], answer_trouble(server.exchange(request("POST", CHAT, body)))


def schemas(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """JSON schemas that can't be followed, or cost much."""
    many = rng.choice((10, 300, 50_000))
    pattern = rng.choice(("(a|a)*$", "(a+)+b", "a{5000}{500}", "(?=x)", "[", "\\p{L}" * 100, ".{0,99999}x", "(" * many))
    deep: Any = {"type": "object"}
    for _ in range(min(many, 300)):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    either = [{"type": "string", "maxLength": number} for number in range(min(many, 300))]
    schema = rng.choice(
        (
            {"type": "string", "maxLength": many},
            {"type": "string", "minLength": many, "maxLength": 10**12},
            {"type": "string", "pattern": pattern},
            {"type": "array", "items": {"type": "integer"}, "minItems": many, "maxItems": 10**9},
            {"enum": [f"word {number}" for number in range(many)]},
            {"$ref": rng.choice(("#", "#/$defs/a", "http://127.0.0.1:1/x", "file:///etc/passwd", "x" * many))},
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
            {"anyOf": either},
            {"allOf": either},
            {"oneOf": either, "not": {"type": "string"}},
            {"type": "object", "properties": {f"p{number}": {} for number in range(many)}},
            {"type": "object", "patternProperties": {pattern: {"type": "string"}}},
            {"type": "integer", "minimum": -(10**300), "maximum": 10**300, "multipleOf": 1e-300},
            {"type": "number", "multipleOf": 0},
            {"const": rng.choice(ODD)},
            {"type": ["string"] * many},
            {"x-guidance": {"whitespace_pattern": pattern, "whitespace_flexible": "x"}},
            deep,
        )
    )
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    if rng.random() < 0.3:
        tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
        body = chat_of(tools=[tool], tool_choice=rng.choice(("required", "auto")))
    else:
        body = chat_of(response_format=form)
    return str(schema)[:100], answer_trouble(server.exchange(request("POST", CHAT, body)))


def odd_tools(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Tools and calls of other shapes."""
    tool = json.loads(json.dumps(TOOL))
    tools = [change_node(tool, rng), rng.choice((TOOL, change_node(json.loads(json.dumps(TOOL)), rng)))]
    tools *= rng.choice((1, 1, 1, 100))
    choice = rng.choice(("auto", "none", "required", *ODD, {"type": "function", "function": {"name": "find"}}))
    body = chat_of(tools=tools, tool_choice=choice, messages=rng.choice((HELLO["messages"], TALK)))
    return f"{str(tools)[:90]} {str(choice)[:30]}", answer_trouble(server.exchange(request("POST", CHAT, body)))


def many_answers(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Requests for much at once: prompts, answers, log-probabilities, token ids."""
    body = rng.choice(
        (
            {"prompt": ["The"] * 128, "max_tokens": 2, "logprobs": 20, "echo": True},
            {"prompt": ["The"] * 129, "max_tokens": 2},
            {"prompt": [[1]] * 500_000, "max_tokens": 1},
            {"prompt": [1] * 1_000_000, "max_tokens": 1},
            {"prompt": list(range(500)), "max_tokens": 1},
            {"prompt": [0, 1, 2, 3] * 5, "max_tokens": 0, "echo": True, "logprobs": 20},
            {"prompt": [-1], "max_tokens": 1},
            {"prompt": [2**70], "max_tokens": 1},
            {"prompt": "", "max_tokens": 1},
            {"prompt": "a" * 7_000_000, "max_tokens": 1},
            {"prompt": " ".join(["word"] * 200), "n": 128, "max_tokens": 1},
            {"prompt": "The", "n": 64, "max_tokens": 3, "stream": True, "logprobs": 5},
        )
    )
    answer = server.exchange(request("POST", COMPLETION, json.dumps(body).encode()))
    return str(body)[:100], answer_trouble(answer)


def huge_chats(server: Served, rng: random.Random) -> tuple[str, str | None]:
    """Conversations that no context holds: many messages, parts, calls or letters."""
    answer = server.exchange(request("POST", CHAT, json.dumps(huge_chat(rng)).encode()))
    return "a huge chat", answer_trouble(answer, (400,))


def huge_chat(rng: random.Random) -> dict[str, Any]:
    """The body of one, below the most that is read."""
    user = {"role": "user", "content": "a"}
    return rng.choice(
        (
            {"messages": [user] * 180_001},
            {"messages": [user | {"content": "a b " * 1_500_000}]},
            {"messages": [user | {"content": [{"type": "text", "text": "a"}] * 180_001}]},
            {"messages": [{"role": "assistant", "tool_calls": [CALL] * 60_000}]},
            {"messages": [user | {"name": "a" * 6_000_000}]},
            {"messages": [user], "tools": [TOOL | {"function": TOOL["function"] | {"description": "a " * 3_000_000}}]},  # type: ignore[operator]
        )
    )


BODIES: tuple[Callable[[Served, random.Random], tuple[str, str | None]], ...] = (
    odd_fields,
    odd_nodes,
    damaged_json,
    grammars,
    schemas,
    odd_tools,
    many_answers,
    huge_chats,
)
