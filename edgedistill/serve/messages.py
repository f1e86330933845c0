"""The messages of a chat request, in the form that chat templates expect."""

import json
from typing import Any

from edgedistill.serve.refused import Refused

ROLES = ("system", "developer", "user", "assistant", "tool")


def read_messages(given: Any, system: str | None) -> list[dict[str, Any]]:
    """Messages with their content as one text, a developer's as the system's; `system` begins those that have none.

    Raises:
        Refused: they are malformed, or hold more than text.
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
    if message["role"] not in ROLES:
        raise Refused(f"{where}.role must be one of {', '.join(ROLES)}", param=where)
    content = message.get("content")
    if isinstance(content, list):
        texts = [_text_of_part(part) for part in content]
        if not all(isinstance(text, str) for text in texts):
            raise Refused(f"{where} has a part that is no text, and this model reads text alone", param=where)
        content = "\n".join(map(str, texts))
    if content is not None and not isinstance(content, str):
        raise Refused(f"{where} has a content that is no text", param=where)
    role = "system" if message["role"] == "developer" else message["role"]
    plain = {name: value for name, value in message.items() if value is not None}
    if "tool_calls" in plain:
        plain["tool_calls"] = _calls(plain["tool_calls"], where)
    return {**plain, "role": role, "content": content or ""}


def _text_of_part(part: object) -> object:
    """The text of a content part; None where the part isn't a text."""
    if isinstance(part, dict) and part.get("type") == "text":
        return part.get("text")
    return None


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Tool calls with their arguments as an object, which templates expect; OpenAI's API has them as JSON in a text."""
    where = f"{where}.tool_calls"
    if not isinstance(calls, list):
        raise Refused(f"{where} must be a list", param=where)
    read = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Refused(f"{where} holds a call without function.name", param=where)
        read.append({**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}})
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
