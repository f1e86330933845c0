"""The messages of a chat request, in the form that chat templates expect.

They have the fields of OpenAI's API, and the reasoning that newer servers add to an answer. `parsed` and
`parsed_arguments` are passed over: OpenAI's Python client adds them to the content and the arguments that they repeat.
"""

import json
from typing import Any

from edgedistill.serve.refused import Refused
from edgedistill.serve.request_fields import RequestFields

ROLES = ("system", "developer", "user", "assistant", "tool")
# Fields of a message beside its content, which a template may write; the last three are names for one thing.
TEXTS = ("name", "tool_call_id", "reasoning_content", "reasoning", "thinking")


def read_messages(given: Any, system: str | None) -> list[dict[str, Any]]:
    """Messages with their content as one text, a developer's as the system's; `system` begins those that have none.

    Raises:
        Refused: they are malformed, hold more than text, or have a field that isn't known.
    """
    if not isinstance(given, list) or not given:
        raise Refused("messages must be a list with at least one message", param="messages")
    plain = [_message(message, number) for number, message in enumerate(given)]
    if system is not None and plain[0]["role"] != "system":
        plain.insert(0, {"role": "system", "content": system})
    return plain


def _message(message: Any, number: int) -> dict[str, Any]:
    where = f"messages[{number}]"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Refused(f"{where} must be an object with role and content", param=where)
    fields = RequestFields(message, where)
    role = fields.take("role")
    if role not in ROLES:
        raise Refused(f"{where}.role must be one of {', '.join(ROLES)}", param=where)
    content, refusal = _content(fields.take("content"), where), fields.text("refusal")
    read: dict[str, Any] = {name: fields.text(name) for name in TEXTS}
    read |= {"role": "system" if role == "developer" else role, "content": content or refusal or ""}
    read["tool_calls"] = _calls(fields.take("tool_calls"), f"{where}.tool_calls")
    for name in ("audio", "function_call"):
        fields.only(name)
    fields.only("annotations", [])
    fields.pass_over(["parsed"])
    fields.refuse_rest()
    # A template that writes a message as JSON has its fields in the order in which they were sent.
    return {name: read[name] for name in (*message, "content") if read.get(name) is not None}


def _content(content: Any, where: str) -> str | None:
    """The text of a message, whose parts stand on lines of their own."""
    if isinstance(content, list):
        return "\n".join(_text_of_part(part, where, number) for number, part in enumerate(content))
    if content is not None and not isinstance(content, str):
        raise Refused(f"{where} has a content that is no text", param=where)
    return content


def _text_of_part(part: Any, where: str, number: int) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise Refused(f"{where} has a part that is no text, and this model reads text alone", param=where)
    fields = RequestFields(part, f"{where}.content[{number}]")
    fields.take("type")
    text: str = fields.take("text")
    fields.refuse_rest()
    return text


def _calls(calls: Any, where: str) -> list[dict[str, Any]] | None:
    """Tool calls with their arguments as an object, which templates expect; OpenAI's API has them as JSON in a text."""
    if calls is None:
        return None
    if not isinstance(calls, list):
        raise Refused(f"{where} must be a list", param=where)
    read = []
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Refused(f"{where} holds a call without function.name", param=where)
        fields = RequestFields(call, f"{where}[{number}]")
        fields.pass_over(["id", "type", "index", "function"])
        fields.refuse_rest()
        inner = RequestFields(function, f"{where}[{number}].function")
        inner.pass_over(["name", "arguments", "parsed_arguments"])
        inner.refuse_rest()
        called = {name: value for name, value in function.items() if name != "parsed_arguments"}
        read.append({**call, "function": {**called, "arguments": _arguments(function.get("arguments"))}})
    return read


def _arguments(given: Any) -> Any:
    """The object in a text; what a model wrote that is none stays as it is."""
    if not isinstance(given, str):
        return {} if given is None else given
    try:
        read = json.loads(given or "{}")
    except (ValueError, RecursionError):
        return given
    return read if isinstance(read, dict) else given
