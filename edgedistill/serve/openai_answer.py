"""Answers in the shapes of OpenAI's API: whole ones, the chunks of streamed ones, and log-probabilities."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgedistill.serve.answer_job import TokenLogProb
from edgedistill.serve.tools import ToolCall

Json = dict[str, Any]
SMALLEST = -9999.0  # for a log-probability of -inf, which JSON can't say


class AnswerShape:
    """What all parts of one answer have in common: its id, its time, the model's name, and of which kind it is."""

    def __init__(self, model: str, chat: bool, piece: Callable[[int], bytes]) -> None:
        """`piece` gives the bytes of a token."""
        self._model, self._chat, self._piece = model, chat, piece
        self._id = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12)
        self._created = int(time.time())

    def whole(self, choices: list[Json], usage: Json) -> Json:
        """An answer that isn't streamed."""
        return self._part("chat.completion" if self._chat else "text_completion", choices) | {"usage": usage}

    def chunk(self, choices: list[Json], **more: Any) -> Json:
        """One event of a stream."""
        return self._part("chat.completion.chunk" if self._chat else "text_completion", choices) | more

    def _part(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": None,
            "choices": choices,
        }

    def log_probs(self, tokens: Sequence[TokenLogProb] | None, offset: int = 0) -> Json | None:
        """Tokens with their log-probabilities; `offset` is where their text begins, of a completion."""
        if tokens is None:
            return None
        return {"content": [self._chat_token(token) for token in tokens]} if self._chat else self._plain(tokens, offset)

    def _chat_token(self, token: TokenLogProb) -> Json:
        top = [self._named(alternative, log_prob) for alternative, log_prob in token.top]
        return {**self._named(token.token, token.log_prob or 0.0), "top_logprobs": top}

    def _named(self, token: int, log_prob: float) -> Json:
        data = self._piece(token)
        return {"token": _text(data), "logprob": max(log_prob, SMALLEST), "bytes": list(data)}

    def _plain(self, tokens: Sequence[TokenLogProb], offset: int) -> Json:
        """The old form of completions: lists side by side, alternatives by their text."""
        texts, offsets, alternatives = [], [], []
        for token in tokens:
            texts.append(_text(self._piece(token.token)))
            offsets.append(offset)
            offset += len(texts[-1])
            alternatives.append(self._alternatives(token))
        log_probs = [None if token.log_prob is None else max(token.log_prob, SMALLEST) for token in tokens]
        return {"tokens": texts, "token_logprobs": log_probs, "top_logprobs": alternatives, "text_offset": offsets}

    def _alternatives(self, token: TokenLogProb) -> dict[str, float] | None:
        """The likeliest tokens by their text; of two with one text the likelier."""
        if token.log_prob is None:
            return None
        named: dict[str, float] = {}
        for alternative, log_prob in token.top:
            named.setdefault(_text(self._piece(alternative)), max(log_prob, SMALLEST))
        return named


@dataclass
class WrittenAnswer:
    """One answer as far as it has come."""

    text: str = ""
    tokens: list[TokenLogProb] | None = None
    finish: str | None = None
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, text: str, tokens: list[TokenLogProb]) -> None:
        """Go on."""
        self.text += text
        if self.tokens is not None:
            self.tokens += tokens


def message(content: str, calls: list[ToolCall]) -> Json:
    """The message of a whole chat answer."""
    if not calls:
        return {"role": "assistant", "content": content, "refusal": None}
    return {
        "role": "assistant",
        "content": content or None,
        "refusal": None,
        "tool_calls": [_call(call) for call in calls],
    }


def call_deltas(calls: list[ToolCall]) -> list[Json]:
    """The changes that tell calls in a stream: each call's name first, then its arguments."""
    deltas: list[Json] = []
    for index, call in enumerate(calls):
        begun = _call(call)
        begun["function"]["arguments"] = ""
        deltas.append({"tool_calls": [{"index": index, **begun}]})
        deltas.append({"tool_calls": [{"index": index, "function": {"arguments": call.arguments}}]})
    return deltas


def usage(prompt: int, completion: int) -> Json:
    """How many tokens a request took."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _call(call: ToolCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": "call_" + secrets.token_hex(12), "type": "function", "function": function}


def _text(data: bytes) -> str:
    """A token's text; one that is no whole character is told by its bytes, so that texts stay apart."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
