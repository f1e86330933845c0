"""Renders chat templates as transformers and llama.cpp do: Jinja in a sandbox, with the extensions that templates use.

A template comes from a model's file, so it is hostile: it can't reach attributes that begin with an underscore nor
change its arguments, and this process, which runs it, has little memory and little time. `python -m
edgedistill.templates.worker` reads a JSON object a line and answers with one: {"text"}, {"error"} or {"limit"}.
"""

import json
import resource
import signal
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgedistill.templates import REMEDY

ADDRESS_SPACE_BYTES = 2**30
TIME_S = 15  # the parent gives up sooner; this ends a process whose parent has died
OUT_OF_MEMORY = (
    f"its chat template takes more than {ADDRESS_SPACE_BYTES >> 30} GiB of memory for this conversation; {REMEDY}"
)
KEPT_COMPILED = 8  # a run renders thousands of conversations with one or two templates


class _GenerationTag(Extension):
    """{% generation %} marks the assistant's text for training; for a prompt it is only its contents."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> Any:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(template: str, arguments: dict[str, Any]) -> str:
    """The text of a template.

    Raises:
        ValueError: it is no Jinja, or refuses its arguments.
    """
    try:
        return compiled(template).render(
            **arguments, functions=None, function_call=None, tool_choice=None, documents=None
        )
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"its chat template has an error in line {error.lineno}: {error.message}") from None
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"its chat template refuses this conversation: {error}") from None


@lru_cache(KEPT_COMPILED)
def compiled(template: str) -> jinja2.Template:
    """A template's program, as transformers would make it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, loopcontrols],
        keep_trailing_newline=False,
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def main() -> None:
    """Answer until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    for line in sys.stdin:
        signal.alarm(TIME_S)
        sys.stdout.write(reply(line) + "\n")
        sys.stdout.flush()
        signal.alarm(0)


def reply(line: str) -> str:
    """The line that answers one, without its end."""
    try:
        return json.dumps(answer(json.loads(line)))
    except MemoryError:
        return json.dumps({"limit": OUT_OF_MEMORY})


def answer(request: dict[str, Any]) -> dict[str, str]:
    """{"text": ...}, {"error": why not}, or {"limit": which one it went beyond}."""
    try:
        return {"text": render(request["template"], request["arguments"])}
    except ValueError as error:
        return {"error": str(error)[:1000]}
    except MemoryError:
        return {"limit": OUT_OF_MEMORY}
    except Exception as error:  # a template can raise what Python can, and its compiler too
        return {"error": f"its chat template fails on this conversation: {type(error).__name__}: {str(error)[:200]}"}


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


if __name__ == "__main__":
    main()
