"""Renders a chat template as transformers and llama.cpp do: Jinja in a sandbox, with the extensions that templates use.

Templates come from model files, so they are treated as hostile: a template can't reach attributes that begin with an
underscore, and can't change its arguments.
"""

import json
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgedistill.errors import InputError


class _GenerationTag(Extension):
    """{% generation %} marks the assistant's text for training; for a prompt it is only its contents."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> Any:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(
    template: str,
    messages: list[dict[str, Any]],
    *,
    bos: str,
    eos: str,
    add_generation_prompt: bool = True,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """The prompt text of a conversation; `bos` and `eos` are the texts of these tokens, `tools` JSON schemas of
    functions.

    Raises:
        InputError: the template is no Jinja, or refuses these messages.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, loopcontrols],
        keep_trailing_newline=False,
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template).render(
            messages=messages,
            bos_token=bos,
            eos_token=eos,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            functions=None,
            function_call=None,
            tool_choice=None,
            documents=None,
        )
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"its chat template has an error in line {error.lineno}: {error.message}") from None
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, OverflowError) as error:
        raise InputError(f"its chat template refuses this conversation: {error}") from None


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
