"""Ollama's Modelfile: which file, where an answer ends, how to sample, and the chat template in Go's language where it
has one.

Ollama reads a GGUF's own template only to look for it in a list of those that it knows. Where ours can be said as fixed
texts between messages (turns.py), it is written out; else that is left to Ollama, and said.
Texts of the model become Go's quoted strings of plain ASCII: nothing in them can end the string, the action, or the
Modelfile's own quotes.
Source: parser/parser.go and template/template.go of Ollama.
"""

from collections.abc import Sequence

from edgedistill.bundle.settings import ModelSettings
from edgedistill.bundle.turns import DATE, Turns, find_turns
from edgedistill.templates.render import LimitError

PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 <>|_-.,:;!?'/()[]=+*#@&")
MANY_ENDS = 8  # stop words are compared at every token


def modelfile(file: str, others: Sequence[str], model: str, settings: ModelSettings) -> str:
    """The Modelfile's text.

    Args:
        file: the GGUF's name, a safe one; `others` are the further ones beside it.
        model: what to call the model in Ollama, a safe name.
    """
    lines = [
        "# For Ollama. In this folder:",
        f"#   ollama create {model.lower()} -f Modelfile",
        f"#   ollama run {model.lower()}",
        f"FROM ./{file}",
    ]
    if others:
        lines += [
            (
                "# Other levels of the same model, to be named there instead: "
                f"{', '.join(f'./{other}' for other in others)}"
            )
        ]
    if settings.own_sampling:
        whose = "The sampling that the model's makers advise; `edgedistill chat` has it too."
    else:
        whose = "The sampling of `edgedistill chat`; the model's makers advise none."
    lines += [
        "",
        f"# {whose}",
        "# Ollama doesn't stop an answer that repeats itself, so num_predict ends it.",
        f"PARAMETER num_ctx {settings.context}",
        f"PARAMETER num_predict {settings.longest_answer}",
    ]
    lines += [f"PARAMETER {name} {value:g}" for name, value in settings.chat.llama_sampling.items()]
    stops = [end for end in settings.ends if _quotable(end)][:MANY_ENDS]
    lines += [f'PARAMETER stop "{end}"' for end in stops]
    return "\n".join([*lines, "", *_template(settings), *_system(settings.chat.system)]) + "\n"


def _system(system: str | None) -> list[str]:
    """The system message that the model was trained with, where three quotes can hold it."""
    if system is None:
        return []
    lines = ["", "# The model was trained with this system message before every conversation."]
    printable = all(char.isprintable() or char == "\n" for char in system)
    if '"""' in system or system.endswith('"') or not printable:
        return [*lines, "# It can't be written between three quotes: take it from bundle.json (system)."]
    return [*lines, f'SYSTEM """{system}"""']


def _template(settings: ModelSettings) -> list[str]:
    if settings.template is None:
        return ["# The model has no chat template: it goes on writing a text.", 'TEMPLATE """{{ .Prompt }}"""']
    why = "writes today's date" if DATE in settings.template else "does more than put fixed texts between messages"
    try:
        turns = find_turns(settings.template, settings.bos, settings.eos, settings.add_bos)
    except LimitError:
        turns, why = None, "takes more time or memory than it may for a conversation of several messages"
    if turns is None:
        return [
            f"# No TEMPLATE: the model's own (chat_template.jinja, also in the GGUF) {why}, which wasn't translated.",
            (
                "# Ollama looks for the GGUF's among the templates that it knows. Compare `ollama show "
                "--template` before you rely on it."
            ),
        ]
    lines = [
        "# The model's own chat template in Go's language: the same text for each conversation, but without tools."
    ]
    if turns.system is None:
        lines.append("# It refuses a system message, or takes too long for one, so SYSTEM has no effect.")
    return [*lines, f'TEMPLATE """{go_template(turns)}"""']


def go_template(turns: Turns) -> str:
    """The turns as a Go template over Ollama's .System and .Messages, in which messages of one role in a row are one
    already.

    Every line begins with an action that trims the line break before it.
    """
    lines = [
        "{{- $begun := false }}",
        "{{- range .Messages }}",
        '{{- if eq .Role "user" }}',
        "{{- if $begun }}" + _action(turns.again),
    ]
    if turns.system is None:
        lines.append("{{- else }}" + _action(turns.first))
    else:
        before, between = turns.system
        lines.append("{{- else if $.System }}" + _action(before) + "{{ $.System }}" + _action(between))
        lines.append("{{- else }}" + _action(turns.first))
    lines += [
        "{{- end }}{{- $begun = true }}",
        "{{- .Content }}" + _action(turns.answer),
        '{{- else if eq .Role "assistant" }}' + _action(turns.lead),
        "{{- .Content }}",
        "{{- end }}",
        "{{- end }}",
    ]
    return "\n".join(lines)


def _action(text: str) -> str:
    return f"{{{{ {go_string(text)} }}}}" if text else ""


def go_string(text: str) -> str:
    """A Go string literal of plain ASCII, without quotes, backslashes, braces or backticks of the text's own."""
    out = []
    for char in text:
        code = ord(char)
        if char in PLAIN:
            out.append(char)
        elif char == "\n":
            out.append("\\n")
        elif 0xD800 <= code <= 0xDFFF:
            out.append("\\ufffd")  # half of a pair, which UTF-8 can't hold
        else:
            out.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return f'"{"".join(out)}"'


def _quotable(end: str) -> bool:
    """Whether the Modelfile can hold the text between quotes: it has no way to escape any."""
    return bool(end) and end == end.strip() and len(end) < 80 and '"' not in end and end.isprintable()
