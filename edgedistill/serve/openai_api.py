"""Chats and completions of OpenAI's API: a request becomes jobs of the batcher, whose events become the answer."""

import asyncio
import contextlib
from typing import Any

from edgedistill.errors import InputError
from edgedistill.runtimes.chat_defaults import ChatDefaults
from edgedistill.serve.answer_events import Events, Model, Prepared
from edgedistill.serve.answer_job import End, Piece
from edgedistill.serve.asgi import ClientLeftError, Receive, SentAnswer, until_gone
from edgedistill.serve.constraint import Constraint, ConstraintError, refusal
from edgedistill.serve.context_bound import ContextBound, conversation_length
from edgedistill.serve.openai_answer import AnswerShape, call_deltas, message, usage
from edgedistill.serve.openai_request import Question, read_chat, read_completion
from edgedistill.serve.refused import Refused
from edgedistill.serve.tools import OPEN, ToolCall, call_grammar, may_be_call, read_answer
from edgedistill.serve.turns import Turns, unless_gone

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
MASK_POLL_S = 0.01
# Of one request, and of all that are being answered; each takes some hundred bytes until its answer is sent. Beside
# them an answer is small, and there are as many requests at most as connections.
MAX_LOG_PROBS, MAX_LOG_PROBS_AT_ONCE = 1 << 20, 1 << 23


class OpenAiApi:
    """The two questions that the server answers."""

    def __init__(self, model: Model, defaults: ChatDefaults) -> None:
        """`defaults` are for what a request doesn't say."""
        self._model, self._defaults = model, defaults
        self._log_probs = 0  # that the requests which are being answered may bring
        self._bound = ContextBound(model.context, model.longest_token)
        self._reading = {CHAT: Turns(), COMPLETION: Turns()}  # one process renders all chats
        self._starting = Turns()  # a process for grammars starts in one thread, and the others are for other requests
        # As many processes for grammars as answers at once.
        self._constraints = asyncio.Semaphore(model.parallel)

    async def answer(self, path: str, body: dict[str, Any], receive: Receive, answer: SentAnswer) -> None:
        """Answer one request.

        Raises:
            Refused: it can't be.
            ClientLeftError: nobody waits for it any longer.
        """
        async with contextlib.AsyncExitStack() as stack:
            gone = asyncio.create_task(until_gone(receive))
            stack.callback(gone.cancel)
            question = await asyncio.to_thread(self.read, path, body)
            async with self._reading[path].turn(request_size(question), gone):
                prepared = await asyncio.to_thread(self.prepare, path, question)
            if self._log_probs + prepared.log_probs > MAX_LOG_PROBS_AT_ONCE:
                raise Refused("the server is busy with other log-probabilities; ask again later", 503, param="logprobs")
            self._log_probs += prepared.log_probs
            stack.callback(self._forget, prepared)
            constraint = None
            if prepared.constraint is not None:
                await unless_gone(self._constraints.acquire(), gone)
                stack.callback(self._constraints.release)
                constraint = await self._constrain(prepared.constraint, gone)
            events = Events(self._model, prepared, constraint, gone)
            stack.push_async_callback(events.close)
            shape = AnswerShape(self._model.name, prepared.chat, self._model.piece)
            if prepared.question.stream:
                await self._stream(prepared, shape, events, answer)
            else:
                await self._whole(prepared, shape, events, answer)

    def _forget(self, prepared: Prepared) -> None:
        self._log_probs -= prepared.log_probs

    def read(self, path: str, body: dict[str, Any]) -> Question:
        """Read a request, without its template and its tokens.

        Raises:
            Refused: it is malformed, or doesn't fit the context whatever its tokens are.
        """
        if path == CHAT:
            self._bound.check_count(body.get("messages"))
            question = read_chat(body, self._defaults, self._model.vocab)
            self._bound.check_text(conversation_length(question), chat=True)
            return question
        question = read_completion(body, self._defaults, self._model.vocab)
        for prompt in question.prompts:
            if isinstance(prompt, str):
                self._bound.check_text(len(prompt), chat=False)
        return question

    def prepare(self, path: str, question: Question) -> Prepared:
        """Make a question's prompts.

        Raises:
            Refused: the template refuses it, or it doesn't fit the context.
        """
        chat = path == CHAT
        try:
            if chat:
                prompts, tagged = self._chat_prompt(question)
            else:
                prompts, tagged = [self._plain_prompt(prompt) for prompt in question.prompts], False
        except InputError as error:
            raise Refused(str(error), param="messages" if chat else "prompt") from None
        for ids in prompts:
            self._bound.check_tokens(len(ids), chat)
        log_probs = count_log_probs(question, prompts, self._model.context)
        constraint = question.constraint or call_grammar(question.tools, question.tool_choice, tagged)
        if constraint is not None and question.answers * len(prompts) > 1:
            raise Refused("an answer that follows a grammar, a schema or tools is made alone; leave n out", param="n")
        return Prepared(question, chat, prompts, constraint, log_probs)

    def _chat_prompt(self, question: Question) -> tuple[list[list[int]], bool]:
        """The prompt's ids, and whether its calls of tools stand between tags.

        Raises:
            InputError: the template refuses.
            Refused: it takes no tools.
        """
        tools = [tool.declaration for tool in question.tools] if question.tool_choice.kind != "none" else []
        text = self._model.write(question.messages, tools or None)
        tagged = False
        if tools:
            without = self._model.write(question.messages, None)
            if text == without:
                raise Refused("the chat template of this model takes no tools; leave tools out", param="tools")
            tagged = OPEN in text and OPEN not in without
        self._bound.check_text(len(text), chat=True)  # a template may write more than it is given
        return [self._model.encode(text, add_bos=False)], tagged

    def _plain_prompt(self, prompt: str | list[int]) -> list[int]:
        ids = self._model.encode(prompt, add_bos=True) if isinstance(prompt, str) else prompt
        if not ids:
            raise InputError("the prompt has no token, and the model none to begin with; give it a text")
        return ids

    async def _constrain(self, given: dict[str, Any], gone: "asyncio.Task[float]") -> Constraint:
        """What an answer must follow, once its first mask is there.

        Raises:
            Refused: it can't be followed.
            ClientLeftError: the client has left.
        """
        constraint = None
        try:
            async with self._starting.turn(0, gone):
                constraint = await asyncio.to_thread(self._model.constrain, given)
            while constraint.poll() is None:
                if gone.done():
                    raise ClientLeftError
                await asyncio.sleep(MASK_POLL_S)
        except BaseException as error:
            if constraint is not None:
                constraint.close()
            if isinstance(error, ConstraintError):
                raise refusal(given, error) from None
            raise
        return constraint

    async def _whole(self, prepared: Prepared, shape: AnswerShape, events: "Events", answer: SentAnswer) -> None:
        question = prepared.question
        written = events.answers()
        completion = 0
        async for index, event in events:
            if isinstance(event, Piece):
                written[index].add(event.text, event.tokens)
            elif isinstance(event, End):
                written[index].finish = event.finish
                completion += event.tokens
        choices = []
        for index, each in enumerate(written):
            choice: dict[str, Any] = {"index": index, "finish_reason": each.finish}
            if not prepared.chat:
                choice |= {"text": each.text, "logprobs": shape.log_probs(each.tokens)}
            else:
                content, calls = each.text, list[ToolCall]()
                if prepared.calls:
                    content, calls = read_answer(each.text, question.tools, question.tool_choice)
                if calls and each.finish == "stop":
                    choice["finish_reason"] = "tool_calls"
                choice |= {"message": message(content, calls), "logprobs": shape.log_probs(each.tokens)}
            choices.append(choice)
        await answer.json(shape.whole(choices, usage(sum(map(len, prepared.prompts)), completion)))

    async def _stream(self, prepared: Prepared, shape: AnswerShape, events: "Events", answer: SentAnswer) -> None:
        more = {"usage": None} if prepared.question.stream_usage else {}
        streams = [StreamedChoice(index, prepared, shape) for index in range(events.count)]
        completion = 0
        async for index, event in events:
            if isinstance(event, Piece):
                choices = streams[index].piece(event)
            else:
                assert isinstance(event, End)
                completion += event.tokens
                choices = streams[index].end(event)
            for choice in choices:
                await answer.event(shape.chunk([choice], **more))
        if prepared.question.stream_usage:
            await answer.event(shape.chunk([], usage=usage(sum(map(len, prepared.prompts)), completion)))
        await answer.event("[DONE]")
        await answer.end()


def count_log_probs(question: Question, prompts: list[list[int]], context: int) -> int:
    """How many log-probabilities the answer to a request may hold.

    Raises:
        Refused: more than one may.
    """
    if question.log_probs is None:
        return 0
    tokens = 0
    for ids in prompts:
        room = context - len(ids)
        longest = room if question.max_tokens is None else min(question.max_tokens, room)
        tokens += question.answers * (longest + (len(ids) if question.echo else 0))
    count = tokens * (1 + question.log_probs)
    if count > MAX_LOG_PROBS:
        raise Refused(
            f"the answer could hold {count} log-probabilities, and {MAX_LOG_PROBS} is the most; ask for fewer tokens, "
            "answers or alternatives at once",
            param="logprobs",
        )
    return count


def request_size(question: Question) -> int:
    """Characters and token ids that a request's prompts are made of."""
    return conversation_length(question) + sum(map(len, question.prompts))


class StreamedChoice:
    """One answer of a stream: what has been sent, and what is held back because it may be a call of a tool."""

    def __init__(self, index: int, prepared: Prepared, shape: AnswerShape) -> None:
        """Nothing has been sent."""
        self._index, self._prepared, self._shape = index, prepared, shape
        self._held = ""
        self._begun = self._is_text = False
        self._offset = 0  # characters sent, of a completion

    def piece(self, event: Piece) -> list[dict[str, Any]]:
        """The choices of the next chunks."""
        if not self._prepared.chat:
            tokens = event.tokens if self._prepared.question.log_probs is not None else None
            choice = {"text": event.text, "logprobs": self._shape.log_probs(tokens, self._offset)}
            self._offset += len(event.text)
            return [{"index": self._index, "finish_reason": None, **choice}]
        text = self._certain(event.text) if self._prepared.calls else event.text
        choices = self._first()
        if text or event.tokens:
            choices.append(self._choice({"content": text}, log_probs=event.tokens))
        return choices

    def end(self, event: End) -> list[dict[str, Any]]:
        """The choices of the last chunks."""
        if not self._prepared.chat:
            return [{"index": self._index, "finish_reason": event.finish, "text": "", "logprobs": None}]
        question, finish, choices = self._prepared.question, event.finish, self._first()
        if self._held:
            calls: list[ToolCall] = []
            content = self._held
            if not self._is_text or OPEN in content:
                content, calls = read_answer(content, question.tools, question.tool_choice)
            if content:
                choices.append(self._choice({"content": content}))
            choices += [self._choice(delta) for delta in call_deltas(calls)]
            if calls and finish == "stop":
                finish = "tool_calls"
        return [*choices, self._choice({}, finish)]

    def _first(self) -> list[dict[str, Any]]:
        if self._begun:
            return []
        self._begun = True
        return [self._choice({"role": "assistant", "content": None if self._prepared.calls else ""})]

    def _choice(self, delta: dict[str, Any], finish: str | None = None, log_probs: Any = None) -> dict[str, Any]:
        shown = self._shape.log_probs(log_probs) if log_probs else None
        return {"index": self._index, "delta": delta, "logprobs": shown, "finish_reason": finish}

    def _certain(self, text: str) -> str:
        """The text that is no call whatever comes."""
        self._held += text
        if OPEN in self._held or (not self._is_text and may_be_call(self._held)):
            return ""
        self._is_text = True
        kept = next((count for count in range(len(OPEN) - 1, 0, -1) if self._held.endswith(OPEN[:count])), 0)
        certain = self._held[: len(self._held) - kept]
        self._held = self._held[len(certain) :]
        return certain
