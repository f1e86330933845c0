"""A question of OpenAI's API as a value: what is asked, how it is sampled, and what the answer must hold to.

Every field that is known is read here, and refused where it can't be given; an unknown one is refused too.
"""

from dataclasses import dataclass, field
from typing import Any

from edgedistill.runtimes.chat_defaults import ChatDefaults
from edgedistill.serve.messages import read_messages
from edgedistill.serve.refused import Refused
from edgedistill.serve.request_fields import RequestFields
from edgedistill.serve.tools import Tool, ToolChoice, read_choice, read_tools

MAX_TOKENS = 1 << 31
MAX_ANSWERS = 128  # of one request: prompts times answers to each
MAX_STOPS, MAX_STOP_LENGTH = 16, 1000
MAX_LOG_PROBS = 20
MAX_BIASES = 4096
# Fields that change nothing in an answer: the model, since there is one, who asks, notes, and what makes the same
# answer come sooner: a cache, or a guess at it.
HARMLESS = (
    "model",
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prediction",
    "cache_prompt",
)


@dataclass(frozen=True)
class SamplingSettings:
    """How a token is drawn. The first two are temperature and nucleus, the next two cut the tail before them."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    biases: dict[int, float] = field(default_factory=dict)  # token id -> added to its logit


@dataclass(frozen=True)
class Question:
    """One request.

    Attributes:
        prompts: texts or token ids, of a completion; empty for a chat.
        messages: of a chat.
        max_tokens: None is as many as the context holds.
        answers: to each prompt.
        log_probs: how many alternatives each token is given with; None for none and no log-probabilities.
        echo: whether a completion begins with its prompt.
        stream: whether the answer is sent while it is written, and whether that ends with the count of tokens.
        constraint: what the answer must follow: {"gbnf": text}, {"schema": JSON schema}; None for nothing.
    """

    sampling: SamplingSettings
    prompts: list[str | list[int]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    max_tokens: int | None = None
    answers: int = 1
    seed: int | None = None
    stops: tuple[str, ...] = ()
    log_probs: int | None = None
    echo: bool = False
    stream: bool = False
    stream_usage: bool = False
    constraint: dict[str, Any] | None = None


def read_chat(body: dict[str, Any], defaults: ChatDefaults, vocab: int) -> Question:
    """A request to /v1/chat/completions.

    A conversation without a system message gets that of the defaults, and so does sampling that isn't named, so that
    `edgedistill chat` and the server answer alike.

    Raises:
        Refused: it asks for what isn't offered.
    """
    fields = RequestFields(body)
    messages = read_messages(fields.take("messages"), defaults.system)
    tools = read_tools(fields.take("tools"))
    choice = read_choice(fields.take("tool_choice"), tools, fields.flag("parallel_tool_calls", True))
    log_probs = _chat_log_probs(fields)
    constraint = _constraint(fields)
    if constraint is not None and tools and choice.kind != "none":
        raise Refused(
            "an answer can't follow response_format or grammar and call tools; leave one of them out, or send "
            "tool_choice 'none'",
            param="response_format",
        )
    longest = fields.whole("max_completion_tokens", 1, MAX_TOKENS)
    max_tokens = fields.whole("max_tokens", 1, MAX_TOKENS)
    fields.only("modalities", ["text"])
    for name in ("functions", "function_call"):
        if fields.take(name):
            raise Refused(f"{name} is the old form of tools; send tools and tool_choice", param=name)
    fields.only("logit_bias_type")
    stream, usage = _stream(fields)
    question = Question(
        sampling=_sampling(fields, defaults, vocab),
        messages=messages,
        tools=tools,
        tool_choice=choice,
        max_tokens=max_tokens if longest is None else longest,
        answers=fields.whole("n", 1, MAX_ANSWERS) or 1,
        seed=fields.whole("seed", -(1 << 63), 1 << 63),
        stops=_stops(fields),
        log_probs=log_probs,
        stream=stream,
        stream_usage=usage,
        constraint=constraint,
    )
    _refuse_rest(fields, question)
    return question


def read_completion(body: dict[str, Any], defaults: ChatDefaults, vocab: int) -> Question:
    """A request to /v1/completions.

    Raises:
        Refused: it asks for what isn't offered.
    """
    fields = RequestFields(body)
    prompts = _prompts(fields.take("prompt"), vocab)
    fields.only("suffix", "")
    fields.only("best_of", 1)
    stream, usage = _stream(fields)
    echo = fields.flag("echo")
    question = Question(
        sampling=_sampling(fields, defaults, vocab),
        prompts=prompts,
        max_tokens=fields.whole("max_tokens", 0 if echo else 1, MAX_TOKENS),
        answers=fields.whole("n", 1, MAX_ANSWERS) or 1,
        seed=fields.whole("seed", -(1 << 63), 1 << 63),
        stops=_stops(fields),
        log_probs=None if fields.take_false("logprobs") else fields.whole("logprobs", 0, MAX_LOG_PROBS),
        echo=echo,
        stream=stream,
        stream_usage=usage,
        constraint=_constraint(fields),
    )
    _refuse_rest(fields, question)
    return question


def _refuse_rest(fields: RequestFields, question: Question) -> None:
    fields.only("store", False)
    fields.only("service_tier", "auto", "default")
    fields.pass_over(HARMLESS)
    fields.refuse_rest()
    if question.answers * max(1, len(question.prompts)) > MAX_ANSWERS:
        raise Refused(f"a request may have {MAX_ANSWERS} answers at most; send several requests", param="n")


def _sampling(fields: RequestFields, defaults: ChatDefaults, vocab: int) -> SamplingSettings:
    return SamplingSettings(
        temperature=fields.number("temperature", defaults.temperature, 0, 2),
        top_p=fields.number("top_p", defaults.top_p, 0, 1),
        top_k=fields.whole("top_k", -1, MAX_TOKENS) or 0,
        min_p=fields.number("min_p", 0, 0, 1),
        repeat_penalty=fields.number("repeat_penalty", 1, 0.01, 100),
        frequency_penalty=fields.number("frequency_penalty", 0, -2, 2),
        presence_penalty=fields.number("presence_penalty", 0, -2, 2),
        biases=_biases(fields.take("logit_bias"), vocab),
    )


def _biases(given: Any, vocab: int) -> dict[int, float]:
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > MAX_BIASES:
        raise Refused(f"logit_bias must be an object with {MAX_BIASES} tokens at most", param="logit_bias")
    biases = RequestFields(given)
    read = {}
    for name in given:
        if not (name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < vocab):
            raise Refused(f"logit_bias names token {name[:40]!r}, which the vocabulary lacks", param="logit_bias")
        read[int(name)] = biases.number(name, 0, -100, 100)
    return read


def _stops(fields: RequestFields) -> tuple[str, ...]:
    given = fields.take("stop")
    if given is None:
        return ()
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused("stop must be a text or a list of texts", param="stop")
    texts = [text for text in texts if text]
    if len(texts) > MAX_STOPS or any(len(text) > MAX_STOP_LENGTH for text in texts):
        raise Refused(f"stop may hold {MAX_STOPS} texts of {MAX_STOP_LENGTH} characters at most", param="stop")
    return tuple(texts)


def _stream(fields: RequestFields) -> tuple[bool, bool]:
    stream, options = fields.flag("stream"), fields.take("stream_options")
    if options is None:
        return stream, False
    if not stream or not isinstance(options, dict):
        raise Refused("stream_options is an object, and is for stream true", param="stream_options")
    inner = RequestFields(options, "stream_options")
    usage = inner.flag("include_usage")
    inner.pass_over(["include_obfuscation"])
    inner.refuse_rest()
    return stream, usage


def _chat_log_probs(fields: RequestFields) -> int | None:
    wanted = fields.flag("logprobs")
    alternatives = fields.whole("top_logprobs", 0, MAX_LOG_PROBS)
    if alternatives and not wanted:
        raise Refused("top_logprobs needs logprobs true", param="top_logprobs")
    return (alternatives or 0) if wanted else None


def _constraint(fields: RequestFields) -> dict[str, Any] | None:
    grammar, form = fields.take("grammar"), fields.take("response_format")
    if grammar is not None and not (isinstance(grammar, str) and "\0" not in grammar):
        raise Refused("grammar must be a text in GBNF", param="grammar")  # llama.cpp would read up to the first NUL
    constraint = _format(form)
    if grammar and constraint:
        raise Refused("an answer can't follow both grammar and response_format; leave one out", param="grammar")
    return {"gbnf": grammar} if grammar else constraint


def _format(form: Any) -> dict[str, Any] | None:
    where = "response_format"
    if form is None:
        return None
    if not isinstance(form, dict):
        raise Refused('response_format must be an object, as {"type": "json_object"}', param=where)
    fields = RequestFields(form, where)
    kind = fields.take("type")
    schema: Any = None
    if kind == "json_object":
        schema = fields.take("schema")
        schema = {"type": "object"} if schema is None else schema
    elif kind == "json_schema":
        schema = _schema(fields.take("json_schema"))
    elif kind != "text":
        raise Refused("response_format.type must be text, json_object or json_schema", param=where)
    fields.refuse_rest()
    if kind == "text":
        return None
    if not isinstance(schema, dict):
        raise Refused("response_format has no schema that is an object", param=where)
    return {"schema": schema}


def _schema(given: Any) -> Any:
    """The schema of response_format.json_schema, beside which stand its name and what it is for."""
    if not isinstance(given, dict):
        return None
    fields = RequestFields(given, "response_format.json_schema")
    schema = fields.take("schema")
    fields.pass_over(["name", "description", "strict"])  # a schema is followed to the letter, strict or not
    fields.refuse_rest()
    return schema


def _prompts(given: Any, vocab: int) -> list[str | list[int]]:
    many = given if isinstance(given, list) and given and isinstance(given[0], (str, list)) else [given]
    for prompt in many:
        ids = isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt)
        if not isinstance(prompt, str) and not ids:
            raise Refused("prompt must be a text, a list of token ids, or a list of such", param="prompt")
        if ids and not all(0 <= token < vocab for token in prompt):
            raise Refused(f"prompt holds a token that the vocabulary of {vocab} lacks", param="prompt")
    return many
