"""The child process of `edgedistill serve`: one GGUF file behind OpenAI's API, on a socket that the parent has bound.

`python -m edgedistill.serve.server_worker` reads frames from stdin, as the other workers do. prompt.py renders the
chat template, as for `edgedistill chat`.
"""

import asyncio
import signal
import socket
import threading
import time
from importlib.metadata import version
from typing import Any

import llama_cpp.llama_cpp as lib
import uvicorn

from edgedistill.errors import InputError
from edgedistill.runtimes.chat_defaults import ChatDefaults
from edgedistill.runtimes.llama_engine import LlamaEngine
from edgedistill.runtimes.llama_worker import OURS
from edgedistill.runtimes.prompt import PromptFormat, adds_missing_bos, check_text, special_text, write_prompt
from edgedistill.runtimes.worker import Answer, Operation, serve
from edgedistill.serve.answer_job import Job
from edgedistill.serve.batching import Batcher
from edgedistill.serve.constraint import Constraint, ConstraintService
from edgedistill.serve.http_protocol import TimedProtocol
from edgedistill.serve.openai_api import OpenAiApi
from edgedistill.serve.server import ServeSettings
from edgedistill.serve.server_front import ServerFront
from edgedistill.serve.server_page import Health

GRACE_S = 3  # for the answers that are being written when the server is told to end
START_S = 30.0
DEFAULT_CONTEXT = 4096  # tokens; a model that was trained for 131,072 would take gigabytes for its cache
BACKLOG = 128  # connections that may wait to be accepted


class ServedModel:
    """The loaded file, as the API asks it."""

    def __init__(self, path: str, name: str, settings: ServeSettings) -> None:
        """Load the file.

        Raises:
            ValueError: llama.cpp refuses it, or the context takes more memory than there is.
        """
        self._engine = LlamaEngine(path, settings.threads)
        self.name, self.parallel, self.vocab = name, settings.parallel, self._engine.vocab
        self.trained = lib.llama_model_n_ctx_train(self._engine.model) or DEFAULT_CONTEXT
        self.context = settings.context or min(self.trained, DEFAULT_CONTEXT)
        self.form = self._form()
        self._pieces = [self._engine.piece(token, True) for token in range(self.vocab)]
        self.longest_token = max(map(len, self._pieces))
        stops = frozenset(self._engine.stop_ids())
        self._batcher = Batcher(self._engine, settings.parallel, self.context, stops)
        self._constraints = ConstraintService(path, self.vocab, self.context)
        self._batcher.start()

    def _form(self) -> PromptFormat:
        """How the file's prompts are written, read as `LlamaWorker` reads it."""
        engine = self._engine
        bos, eos = (
            special_text(token, lambda one: engine.piece(one, True))
            for token in (lib.llama_vocab_bos(engine.lib_vocab), lib.llama_vocab_eos(engine.lib_vocab))
        )
        add_bos = bool(lib.llama_vocab_get_add_bos(engine.lib_vocab))
        missing = adds_missing_bos(add_bos, ours=engine.metadata(OURS) is not None)
        return PromptFormat(engine.chat_template(), bos, eos, missing)

    def write(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        """See Model."""
        return write_prompt(self.form, messages, tools=tools)

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        """See Model."""
        check_text(text)
        return self._engine.tokenize(text, add_special=add_bos, parse_special=True) or self._start()

    def _start(self) -> list[int]:
        """The beginning-of-text token, which an empty text is continued from; [] where there is none."""
        bos = lib.llama_vocab_bos(self._engine.lib_vocab)
        return [bos] if bos >= 0 else []

    def piece(self, token: int) -> bytes:
        """See Model."""
        return self._pieces[token]

    def constrain(self, given: dict[str, Any]) -> Constraint:
        """See Model."""
        return self._constraints.begin(given)

    def submit(self, job: Job) -> None:
        """See Model."""
        self._batcher.submit(job)


class ServerWorker:
    """The operations on one served file."""

    def operations(self) -> dict[str, Operation]:
        """By the name that the parent asks for."""
        return {"load": self.load, "prompt": self.prompt, "listen": self.listen, "wait": self.wait}

    def load(self, path: str, name: str, settings: dict[str, Any]) -> Answer:
        """Load the file; its facts. `settings` are those of `ServeSettings`."""
        defaults = ChatDefaults(**settings.pop("defaults"))
        serve_settings = ServeSettings(**settings, defaults=defaults)
        model = self.model = ServedModel(path, name, serve_settings)
        has_template = model.form.template is not None
        if has_template:
            model.write([{"role": "user", "content": "Hello"}])  # a broken template is an error now
        runtime = f"llama-cpp-python {version('llama-cpp-python')}"
        api_key = serve_settings.api_key
        health = Health(name, runtime, model.context, has_template, api_key is not None)
        api = OpenAiApi(model, defaults)
        self.app = ServerFront(health, api.answer, api_key, serve_settings.origins, serve_settings.hosts)
        return {"version": runtime, "context": model.context, "trained": model.trained, "has_template": has_template}

    def prompt(self, messages: list[dict[str, Any]]) -> Answer:
        """A conversation as the server asks it: text and token ids."""
        text = self.model.write(messages)
        return {"text": text, "ids": self.model.encode(text)}

    def listen(self, fd: int) -> Answer:
        """Start to answer requests on a bound socket; returns once the server has started."""
        sock = socket.socket(fileno=fd)
        try:
            sock.listen(BACKLOG)
        except OSError as error:
            raise InputError(f"it can't listen: {error.strerror}; choose another --port") from None
        config = uvicorn.Config(
            self.app,
            http=TimedProtocol,
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
            backlog=BACKLOG,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
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


if __name__ == "__main__":
    serve(ServerWorker().operations())
