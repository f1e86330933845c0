"""The child process of `edgedistill serve`: llama-cpp-python's own server on one GGUF file, on a socket that the parent
has bound.

`python -m edgedistill.runtimes.server_worker` reads frames from stdin, as the other workers do. prompt.py renders the
chat template and is registered with the library as a chat format of its own: the library's formats for known templates
and its Jinja formatter treat the bos otherwise than transformers, and stop at the text of the eos token wherever a
model writes it.
"""

import asyncio
import codecs
import json
import os
import signal
import socket
import threading
import time
from importlib.metadata import version
from typing import Any

import jinja2
import llama_cpp
import llama_cpp.llama_cpp as lib
import uvicorn
from llama_cpp import llama_chat_format
from llama_cpp.llama_tokenizer import BaseLlamaTokenizer
from llama_cpp.server import app as library
from llama_cpp.server.settings import ModelSettings, ServerSettings
from llama_cpp.server.types import CreateChatCompletionRequest, CreateCompletionRequest
from pydantic import ValidationError
from starlette.middleware import Middleware

from edgedistill.errors import InputError
from edgedistill.runtimes.chat_defaults import ChatDefaults
from edgedistill.runtimes.llama_engine import keep_errors, model_text, token_piece, why
from edgedistill.runtimes.llama_worker import OURS
from edgedistill.runtimes.prompt import PromptFormat, adds_missing_bos, special_text, write_prompt
from edgedistill.runtimes.server import ServeSettings
from edgedistill.runtimes.server_front import CHAT, Refused, RequestFilter, as_refusal, plain_question
from edgedistill.runtimes.server_page import Health
from edgedistill.runtimes.worker import Answer, Operation, serve

CHAT_FORMAT = "edgedistill"
GRACE_S = 3  # for the answers that are being written when the server is told to end
START_S = 30.0
DEFAULT_CONTEXT = 4096  # tokens; a model that was trained for 131,072 would take gigabytes for its cache


class WholeText(BaseLlamaTokenizer):
    """The library's tokenizer, whose bytes are always UTF-8, but for a last character that isn't complete yet.

    A model may write bytes that make no character. In a stream the library then waits for them to become one, and holds
    back everything after them. So they become the replacement character here, as in `edgedistill chat`.
    """

    def __init__(self, inner: BaseLlamaTokenizer) -> None:
        self._inner = inner

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """As the library does."""
        return list(self._inner.tokenize(text, add_bos, special))

    def detokenize(self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False) -> bytes:
        """Text in UTF-8; the bytes of a character that isn't whole yet stay at its end."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        text = decoder.decode(self._inner.detokenize(tokens, prev_tokens, special))
        return text.encode() + decoder.getstate()[0]


class ServerWorker:
    """The operations on one served file."""

    def operations(self) -> dict[str, Operation]:
        """By the name that the parent asks for."""
        return {"load": self.load, "prompt": self.prompt, "listen": self.listen, "wait": self.wait}

    def load(self, path: str, name: str, settings: dict[str, Any]) -> Answer:
        """Load the file into the library's application; its facts. `settings` are those of `ServeSettings`."""
        self.name, self.defaults = name, ChatDefaults(**settings.pop("defaults"))
        serve_settings = ServeSettings(**settings, defaults=self.defaults)
        keep_errors()
        forget_settings()
        llama_chat_format.LlamaChatCompletionHandlerRegistry().register_chat_completion_handler(
            CHAT_FORMAT, self.chat, overwrite=True
        )
        trained = stated_context(path)
        self.context = serve_settings.context or min(trained, DEFAULT_CONTEXT)
        model_settings = ModelSettings(
            model=path,
            model_alias=name,
            n_ctx=self.context,
            n_threads=serve_settings.threads,
            n_threads_batch=serve_settings.threads,
            n_gpu_layers=0,
            offload_kqv=False,
            chat_format=CHAT_FORMAT,
            verbose=False,
        )
        try:
            # A second question waits for its turn: the library would cut the first one's answer off.
            self.app = library.create_app(
                server_settings=ServerSettings(interrupt_requests=False), model_settings=[model_settings]
            )
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"its chat template has an error in line {error.lineno}: {error.message}") from None
        except ValueError as error:
            raise ValueError(f"llama.cpp can't load it: {why(str(error))}") from None
        # The library hands its model to its own routes alone, and requests are rendered before these.
        self.llama = library._llama_proxy()  # type: ignore[misc]
        self.llama.tokenizer_ = WholeText(self.llama.tokenizer_)
        self.form = prompt_format(self.llama)
        if self.form.template is not None:
            write_prompt(self.form, [{"role": "user", "content": "Hello"}])  # a broken template is an error now
        runtime = f"llama-cpp-python {version('llama-cpp-python')}"
        api_key, origins = serve_settings.api_key, serve_settings.origins
        health = Health(name, runtime, self.context, self.form.template is not None, api_key is not None)
        front = Middleware(RequestFilter, health=health, check=self.check, api_key=api_key, origins=origins)  # type: ignore[arg-type]
        self.app.user_middleware.append(front)
        return {
            "version": runtime,
            "context": self.context,
            "trained": trained,
            "has_template": self.form.template is not None,
        }

    def prompt(self, messages: list[dict[str, Any]]) -> Answer:
        """A conversation as the server asks it: text and token ids."""
        text = write_prompt(self.form, messages)
        return {"text": text, "ids": self.encode(text)}

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, as the library's chat handler makes them."""
        return list(self.llama.tokenize(text.encode(), add_bos=False, special=True))

    def chat(self, *, llama: llama_cpp.Llama, **request: Any) -> Any:
        """The library's chat handler, with our prompt."""

        def formatter(*, messages: Any, tools: Any = None, **_: Any) -> llama_chat_format.ChatFormatterResponse:
            text = write_prompt(self.form, messages, tools=tools)
            return llama_chat_format.ChatFormatterResponse(prompt=text, added_special=True)

        return llama_chat_format.chat_formatter_to_chat_completion_handler(formatter)(llama=llama, **request)

    def check(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A question in the shape that the library takes.

        Raises:
            Refused: it is malformed, the template refuses it, or it doesn't fit the context.
        """
        # There is one model, which answers under its own name to any name; without one the library would tell the
        # file's path.
        body = plain_question(path, body, self.defaults) | {"model": self.name}
        kind = CreateChatCompletionRequest if path == CHAT else CreateCompletionRequest
        try:
            request = kind.model_validate(body).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise Refused(f"{where}: {first['msg']}", param=where) from None
        choice = request.get("tool_choice")
        offered = [tool["function"]["name"] for tool in request.get("tools") or []]
        if isinstance(choice, dict) and choice["function"]["name"] not in offered:
            raise Refused(
                f"tool_choice names {choice['function']['name']!r}, which is none of the tools", param="tool_choice"
            )
        if request.get("grammar") is not None or request.get("response_format") is not None:
            self.check_grammar(request)
        biased = request.get("logit_bias") or {}
        if bad := [token for token in biased if not is_token(token, self.llama.n_vocab(), request)]:
            raise Refused(f"logit_bias names token {bad[0]!r}, which the vocabulary lacks", param="logit_bias")
        try:
            if path == CHAT:
                ids = self.encode(write_prompt(self.form, request["messages"], tools=request["tools"]))
            else:
                ids = self.llama.tokenize(request["prompt"].encode(), add_bos=True, special=True)
        except InputError as error:
            raise as_refusal(error) from None
        except UnicodeEncodeError:
            raise Refused("the prompt holds half of a surrogate pair, which spells nothing", param="prompt") from None
        if len(ids) >= self.context:
            raise Refused(
                f"the request has {len(ids)} tokens and the context holds {self.context} with the answer; "
                "send fewer messages, or start the server with a larger --context",
                code="context_length_exceeded",
                param="messages",
            )
        return body

    def check_grammar(self, request: dict[str, Any]) -> None:
        """Refuse a grammar that llama.cpp can't read.

        Raises:
            Refused: llama.cpp can't read it.
        """
        form = request.get("response_format") or {}
        grammar = request.get("grammar")
        try:
            if form.get("type") == "json_object" and form.get("schema") is not None:
                grammar = llama_cpp.llama_grammar.json_schema_to_gbnf(json.dumps(form["schema"]))
        except Exception as error:
            raise Refused(f"the JSON schema can't be followed: {error}", param="response_format") from None
        if grammar is None:
            return
        sampler = lib.llama_sampler_init_grammar(lib.llama_model_get_vocab(self.llama.model), grammar.encode(), b"root")
        if not sampler:
            raise Refused("the grammar has an error, or no rule 'root'", param="grammar")
        lib.llama_sampler_free(sampler)

    def listen(self, fd: int) -> Answer:
        """Start to answer requests on a bound socket; returns once the server has started."""
        sock = socket.socket(fileno=fd)
        try:
            sock.listen(128)
        except OSError as error:
            raise InputError(f"it can't listen: {error.strerror}; choose another --port") from None
        config = uvicorn.Config(
            self.app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
            lifespan="off",
            server_header=False,
        )
        server = uvicorn.Server(config)
        # uvicorn takes signals in the main thread alone, which must stay free to hear the parent.
        self.thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[sock]),), daemon=True)

        def end(*_: object) -> None:
            server.should_exit = True

        signal.signal(signal.SIGTERM, end)
        self.thread.start()
        limit = time.monotonic() + START_S
        while not server.started:
            if not self.thread.is_alive() or time.monotonic() > limit:
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        return None

    def wait(self) -> Answer:
        """Wait until the server has ended, on SIGTERM."""
        self.thread.join()
        return None


def stated_context(path: str) -> int:
    """The tokens that the file says its model was trained for.

    Raises:
        ValueError: llama.cpp refuses the file.
    """
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise ValueError(f"llama.cpp can't load it: {why()}")
    try:
        architecture = model_text(model, "general.architecture") or ""
        stated = model_text(model, f"{architecture}.context_length") or ""
        return int(stated) if stated.isdigit() and int(stated) else DEFAULT_CONTEXT
    finally:
        lib.llama_model_free(model)


def prompt_format(llama: llama_cpp.Llama) -> PromptFormat:
    """How the file's prompts are written, read as `LlamaWorker` reads it."""
    vocab = lib.llama_model_get_vocab(llama.model)
    template = lib.llama_model_chat_template(llama.model, None)
    bos, eos = (
        special_text(token, lambda one: token_piece(vocab, one))
        for token in (lib.llama_vocab_bos(vocab), lib.llama_vocab_eos(vocab))
    )
    missing = adds_missing_bos(bool(lib.llama_vocab_get_add_bos(vocab)), ours=model_text(llama.model, OURS) is not None)
    return PromptFormat(template.decode("utf-8", errors="replace") if template else None, bos, eos, missing)


def is_token(name: str, vocab: int, request: dict[str, Any]) -> bool:
    """Whether a key of logit_bias is the number of a token, or where keys are texts, any text."""
    return request.get("logit_bias_type") == "tokens" or (name.isdecimal() and int(name) < vocab)


def forget_settings() -> None:
    """Drop what the library would take from the environment as its settings: HOST, API_KEY, CACHE, SEED, CONFIG_FILE
    and the like.
    """
    names = {*ServerSettings.model_fields, *ModelSettings.model_fields, "config_file"}
    for name in [name for name in os.environ if name.lower() in names]:
        del os.environ[name]


if __name__ == "__main__":
    serve(ServerWorker().operations())
