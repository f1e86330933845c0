"""Tools of a chat request: their declarations, the grammar of a call that must be made, and calls in a model's text.

Models write a call as JSON with the tool's name and its arguments, between <tool_call> and </tool_call> or as the
whole answer.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from edgedistill.serve.refused import Refused
from edgedistill.serve.request_fields import RequestFields

MAX_TOOLS = 128
OPEN, CLOSE = "<tool_call>", "</tool_call>"
NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
# Text in which a call may stand, and text or a call: an answer that begins as JSON must be one.
TAGGED = (
    "start: tagged* TEXT",
    "TEXT: /(.|\\n)*/",
    f'open[lazy]: TEXT "{OPEN}"',
    f'tagged: open "\\n" call "\\n{CLOSE}"',
)
UNTAGGED = ("start: (call | TEXT)?", "TEXT: /\\s*[^{\\[\\s](.|\\n)*/")
# JSON as Python writes it: without room for white space that never ends.
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class Tool:
    """A function that the model may call: its declaration as sent, its name and the JSON schema of its arguments."""

    declaration: dict[str, Any]
    name: str
    parameters: dict[str, Any]
    strict: bool = False


@dataclass(frozen=True)
class ToolChoice:
    """Whether tools are called: "none", "auto" (if the model likes to), or "required", then `name` or any.

    With `several` false one call is made at most.
    """

    kind: str = "auto"
    name: str | None = None
    several: bool = True


@dataclass(frozen=True)
class ToolCall:
    """A call that a model made; arguments are JSON."""

    name: str
    arguments: str


def read_tools(given: Any) -> list[Tool]:
    """The tools of a request.

    Raises:
        Refused: they are malformed.
    """
    if given is None:
        return []
    if not isinstance(given, list) or len(given) > MAX_TOOLS:
        raise Refused(f"tools must be a list of {MAX_TOOLS} at most", param="tools")
    tools = []
    for number, tool in enumerate(given):
        where = f"tools[{number}]"
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            raise Refused(f'{where} must be {{"type": "function", "function": {{...}}}}', param=where)
        name = function.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise Refused(f"{where}.function.name must be 1 to 64 letters, digits, _, . or -", param=where)
        parameters = function.get("parameters")
        parameters = {"type": "object", "properties": {}} if parameters is None else parameters
        if not isinstance(parameters, dict):
            raise Refused(f"{where}.function.parameters must be a JSON schema", param=where)
        tools.append(Tool(tool, name, parameters, function.get("strict") is True))
    return tools


def read_choice(given: Any, tools: list[Tool], several: bool) -> ToolChoice:
    """The field tool_choice.

    Raises:
        Refused: it is malformed, or names no tool of the request.
    """
    where = "tool_choice"
    if given is None or given in ("auto", "none"):
        return ToolChoice(given or "auto", several=several)
    if given == "required":
        if not tools:
            raise Refused("tool_choice is 'required' and there are no tools", param=where)
        return ToolChoice("required", several=several)
    function = given.get("function") if isinstance(given, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(given, dict) or not isinstance(function, dict) or not isinstance(name, str):
        raise Refused("tool_choice must be 'auto', 'none', 'required' or a function of the tools", param=where)
    fields = RequestFields(given, where)
    fields.only("type", "function")
    fields.take("function")
    fields.refuse_rest()
    inner = RequestFields(function, f"{where}.function")
    inner.take("name")
    inner.refuse_rest()
    if name not in [tool.name for tool in tools]:
        raise Refused(f"tool_choice names {name[:64]!r}, which is none of the tools", param=where)
    return ToolChoice("required", name, several)


def call_grammar(tools: list[Tool], choice: ToolChoice, tagged: bool) -> dict[str, Any] | None:
    """What an answer must follow so that its calls fit the tools' schemas; None where nothing is promised.

    Args:
        tagged: whether the model's calls stand between <tool_call> and </tool_call>.
    """
    if choice.kind == "required":
        allowed = [tool for tool in tools if choice.name in (None, tool.name)]
        return {"lark": "\n".join(["start: call", *_call_rules(allowed)]), "schemas": [t.parameters for t in allowed]}
    if choice.kind == "auto" and any(tool.strict for tool in tools):
        head = TAGGED if tagged else UNTAGGED
        return {"lark": "\n".join([*head, *_call_rules(tools)]), "schemas": [tool.parameters for tool in tools]}
    return None


def _call_rules(tools: list[Tool]) -> list[str]:
    rules = ["call: " + " | ".join(f"call_{number}" for number in range(len(tools)))]
    for number, tool in enumerate(tools):
        begin = json.dumps(_begin(tool))
        schema = json.dumps({**tool.parameters, "x-guidance": LAYOUT})
        rules.append(f'call_{number}: {begin} %json {schema} "}}"')
    return rules


def _begin(tool: Tool) -> str:
    """A call up to its arguments."""
    return f'{{"name": "{tool.name}", "arguments": '


def read_answer(text: str, tools: list[Tool], choice: ToolChoice) -> tuple[str, list[ToolCall]]:
    """The text of an answer without its calls, and the calls; one that had to be made may be cut off in its
    arguments.
    """
    content, calls = find_calls(text, tools, choice.several)
    if not calls and choice.kind == "required":
        for tool in tools:
            if text.startswith(_begin(tool)):
                return "", [ToolCall(tool.name, text.removeprefix(_begin(tool)))]
    return content, calls


def find_calls(text: str, tools: list[Tool], several: bool) -> tuple[str, list[ToolCall]]:
    """The text of an answer without its calls, and the calls of the tools."""
    names = {tool.name for tool in tools}
    parts = text.split(OPEN)
    if len(parts) > 1:
        calls: list[ToolCall] = []
        for part in parts[1:]:
            calls += _read_calls(part.partition(CLOSE)[0], names)
        content = parts[0].strip() if calls else text
    else:
        calls = _read_calls(text.removeprefix("<|python_tag|>"), names)
        content = "" if calls else text
    return content, calls if several else calls[:1]


def may_be_call(text: str) -> bool:
    """Whether an answer that begins so may be a call as a whole."""
    return text.lstrip()[:1] in ("", "{", "[") or "<|python_tag|>".startswith(text.lstrip()[:14])


def _read_calls(text: str, names: set[str]) -> list[ToolCall]:
    """Calls in a JSON object or a list of such; none where one isn't a call."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return []
    calls = []
    for item in read if isinstance(read, list) else [read]:
        if not isinstance(item, dict) or item.get("name") not in names:
            return []
        arguments = item.get("arguments", item.get("parameters", {}))
        if not isinstance(arguments, dict):
            return []
        calls.append(ToolCall(item["name"], json.dumps(arguments, ensure_ascii=False)))
    return calls
