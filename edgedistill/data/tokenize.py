"""Trace -> Example: a conversation's ids for one tokenizer, and which of them count.

The answers count, each with the token that ends it. What the model is only given (the system's words, questions, the
template, an answer of weight 0) doesn't.
"""

import torch
from transformers import PreTrainedTokenizerBase

from edgedistill.data.example import Example
from edgedistill.data.frame import ChatFrame
from edgedistill.data.prose import bos_of
from edgedistill.data.trace import ASSISTANT, Trace


def tokenize(trace: Trace, tokenizer: PreTrainedTokenizerBase, frame: ChatFrame | None) -> Example:
    """A trace as a model reads it.

    A conversation's ids are the prompt of its last answer that counts, and that answer. An earlier answer counts where
    it stands there as the model would have given it; a template that shows past answers otherwise than it asks for
    them (without their thinking, say) leaves it uncounted.

    Args:
        trace: a conversation, or plain text.
        tokenizer: the model's.
        frame: its chat template's; None for plain text.
    Raises:
        ValueError: no turn of a conversation is an answer that counts.
        RefusedError: the template refuses the conversation.
    """
    return _plain(trace, tokenizer) if frame is None else _conversation(trace, frame)


def _plain(trace: Trace, tokenizer: PreTrainedTokenizerBase) -> Example:
    """The turns' texts one after the other, each with its weight, behind what the tokenizer puts before a text."""
    ids, weights = bos_of(tokenizer), [0.0] * len(bos_of(tokenizer))
    for turn in trace.turns:
        piece = tokenizer(turn.text, add_special_tokens=False)["input_ids"]
        ids += piece
        weights += [turn.train] * len(piece)
    return Example(
        torch.tensor(ids, dtype=torch.int32), torch.tensor(weights[1:], dtype=torch.float16), trace_id=trace.id
    )


def _conversation(trace: Trace, frame: ChatFrame) -> Example:
    turns = trace.turns
    answers = [place for place, turn in enumerate(turns) if turn.role == ASSISTANT and turn.train > 0]
    if not answers:
        raise ValueError(f"trace {trace.id}: no answer counts")
    spans = []
    for place in answers:
        prompt = frame.prompt(turns[:place])
        spans.append((prompt, frame.answer(turns[:place], turns[place].text), turns[place].train))
    last_prompt, last_answer, _ = spans[-1]
    ids = [*last_prompt, *last_answer]
    weight = torch.zeros(len(ids) - 1, dtype=torch.float16)
    for prompt, answer, train in spans:
        stop = len(prompt) + len(answer)
        if ids[:stop] == [*prompt, *answer]:
            weight[len(prompt) - 1 : stop - 1] = train
    return Example(torch.tensor(ids, dtype=torch.int32), weight, trace_id=trace.id)
