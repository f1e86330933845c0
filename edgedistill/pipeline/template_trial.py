"""A teacher's chat template, tried before anything is built on what measuring, the report and the bundle ask of it.

A template that fails or loops at the third message would otherwise stop a build at its end.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from edgedistill.bundle.turns import PROBES
from edgedistill.errors import InputError
from edgedistill.models.tokenizer import plain_tokenizer, tokenizer_json
from edgedistill.models.vocabulary import read_vocabulary, template_and_ends
from edgedistill.templates.render import LimitError, render

SYSTEM = {"role": "system", "content": "Be brief."}
TOO_LONG = (
    "the teacher's chat template takes more time or memory than it may for a conversation of several messages: the "
    "Modelfile and the examples go without it, and chat and serve will refuse such conversations; repair the template"
)


def try_template(location: Path, name: str, prompts: Sequence[str] = (), most_tokens: int = 0) -> tuple[str, ...]:
    """Render the conversations that a run of this model renders. It may refuse all but a question on its own.

    Args:
        location: the model's folder or .gguf file.
        name: what messages call it.
        prompts: questions that every file will answer.
        most_tokens: what each must stay below.
    Returns:
        What the run does without, a sentence each.
    Raises:
        InputError: the template can't write a question, takes more time or memory for it than it may, or a prompt is
            too long.
    """
    if not location.exists():  # planned from figures alone
        return ()
    template, bos, eos = template_and_ends(location)
    if template is None:
        return ()
    try:
        notes = () if _in_limits(template, bos, eos) else (TOO_LONG,)
        for prompt in prompts:
            text = render(template, [{"role": "user", "content": prompt}], bos=bos, eos=eos)
            # No token has less than a byte, so that most prompts needn't be tokenized, which takes a vocabulary.
            if len(text.encode()) >= most_tokens and (count := _tokens(location, text)) >= most_tokens:
                raise InputError(
                    f"a prompt of measure.prompts has {count} tokens; it must have fewer than {most_tokens}, or the "
                    "files couldn't answer it"
                )
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return notes


def _in_limits(template: str, bos: str, eos: str) -> bool:
    """Whether conversations of all kinds take no more than they may; the first that does is the last one tried.

    Raises:
        InputError: a question on its own can't be rendered.
    """
    for number, probe in enumerate(PROBES):
        conversation = [{"role": role, "content": content} for role, content in probe]
        for messages in (conversation, [SYSTEM, *conversation]):
            try:
                render(template, messages, bos=bos, eos=eos)
            except InputError as error:
                if number == 0 and messages is conversation:
                    raise
                if isinstance(error, LimitError):
                    return False
    return True


def _tokens(location: Path, text: str) -> int:
    from tokenizers import Tokenizer

    if location.is_dir():
        content = plain_tokenizer(location).decode("utf-8-sig")
    else:
        content = json.dumps(tokenizer_json(location, read_vocabulary(location)))
    return len(Tokenizer.from_str(content).encode(text, add_special_tokens=False).ids)
