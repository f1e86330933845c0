"""`edgedistill serve`: an OpenAI-compatible server on a packed GGUF file, for this machine alone unless it is told
otherwise.
"""

import ipaddress
import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedistill.bundle.recommended import read_chat_defaults
from edgedistill.cli.artifacts import RUNTIMES, find_artifact
from edgedistill.cli.options import NonEmptyPath
from edgedistill.errors import InputError
from edgedistill.show import one_line

if TYPE_CHECKING:
    from edgedistill.serve.server import ModelServer

KEY_VARIABLE = "EDGEDISTILL_API_KEY"
PACKAGES = ("uvicorn", "llguidance")
STOPPED = 130


@click.command()
@click.argument("artifact", metavar="ARTIFACT|RUN_DIR", type=NonEmptyPath())
@click.option(
    "--mix",
    metavar="NAME",
    help="For a run folder with several mixes: q4_0, q8_0, ... Default: the one that its report recommends.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind; 0.0.0.0 lets other machines in.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option(
    "--context",
    type=click.IntRange(min=16),
    help="Longest conversation, in tokens. Default: the model's own, up to 4096.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads. Default: all cores.")
@click.option(
    "--api-key",
    metavar="KEY",
    envvar=KEY_VARIABLE,
    help=f"What clients must send; {KEY_VARIABLE} keeps it out of the history.",
)
@click.option("--name", metavar="MODEL", help="What clients call the model. Default: the file's name.")
@click.option(
    "--allow-origin",
    "origins",
    metavar="URL",
    multiple=True,
    help="A site whose web pages may ask; this machine's may.",
)
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="A name by which clients may ask, beside this machine's addresses, localhost and --host.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Answers at once; each has memory for a context of its own. More wait.",
)
@click.option("--verbose", is_flag=True, help="Show all that the server logs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when it is ready.")
@click.pass_context
def serve(
    ctx: click.Context,
    artifact: Path,
    mix: str | None,
    host: str,
    port: int,
    context: int | None,
    threads: int | None,
    api_key: str | None,
    name: str | None,
    origins: tuple[str, ...],
    hosts: tuple[str, ...],
    parallel: int,
    verbose: bool,
    as_json: bool,
) -> None:
    """Serve a .gguf file, or a run's or bundle's, to OpenAI's clients.

    Chats are rendered with the template of the file. Prints the address when it answers; a page to chat on is at /, and
    /health says in JSON what is served. Requests are logged on stderr. Ctrl-C ends it.

    \b
    Example: edgedistill serve runs/demo --port 8080
    """
    from edgedistill.extras import require
    from edgedistill.machine import usable_cores

    kind, path = find_artifact(artifact, None, mix)
    if kind != RUNTIMES[0]:
        raise InputError(
            f"{path}: serve is for GGUF files, and this is ONNX; name a .gguf file, or talk to this one with "
            "edgedistill chat"
        )
    check_words(api_key, name)
    for package in PACKAGES:
        require(package, extra="serve", purpose="serve")
    from edgedistill.serve.server import ModelServer, ServeSettings

    defaults = read_chat_defaults(path.parent)
    settings = ServeSettings(
        host,
        port,
        threads or usable_cores(),
        context,
        name,
        api_key,
        origins,
        hosts=[known.rstrip(".").lower() for known in (host, *hosts)],
        parallel=parallel,
        defaults=defaults,
    )

    def log(line: str) -> None:
        click.echo(one_line(line), err=True)

    running: list[ModelServer] = []
    try:
        with (
            stopping(running),
            ModelServer(
                path,
                settings,
                on_request=lambda line: log(f"{time.strftime('%H:%M:%S')} {line}"),
                on_line=log if verbose else None,
            ) as server,
        ):
            if not is_loopback(server.host) and api_key is None:
                click.echo(
                    f"Warning: {server.host} lets other machines in, and without --api-key whoever reaches it may ask.",
                    err=True,
                )
            if not server.served.has_template:
                click.echo(
                    f"Warning: {one_line(path)} has no chat template: /v1/completions answers, chats are refused.",
                    err=True,
                )
            elif defaults.system is not None:
                system = one_line(defaults.system)
                click.echo(f"A conversation without a system message gets that of the training: {system}", err=True)
            server.start()
            running.append(server)
            announce(
                server, path, ctx.get_parameter_source("api_key") is click.core.ParameterSource.ENVIRONMENT, as_json
            )
            server.wait()
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
        ctx.exit(STOPPED)
    click.echo("Stopped.", err=True)


def check_words(api_key: str | None, name: str | None) -> None:
    """Refuse a key or a name that no client could send.

    Raises:
        InputError: it is empty, or the key has other characters than a header may.
    """
    if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise InputError("--api-key is empty or holds a character that a header can't; use letters, digits and -_.~+/=")
    if name is not None and not name.strip():
        raise InputError("--name is empty; leave it out for the file's name")


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def announce(server: "ModelServer", path: Path, key_from_environment: bool, as_json: bool) -> None:
    """Say on stdout where the server is, with a line that asks it."""
    served = server.served
    curl = curl_line(server, key_from_environment)
    if as_json:
        facts = {
            "url": server.url,
            "model": served.name,
            "file": str(path),
            "runtime": served.version,
            "context": served.context,
            "pid": os.getpid(),
            "curl": curl,
        }
        click.echo(json.dumps(facts))
        return
    click.echo(f"{one_line(path.name)} answers at {server.url} as {json.dumps(served.name)}")
    if served.has_template:
        click.echo(f"A page to chat on is at {server.page}", err=True)
    click.echo(f"{served.version}, context {served.context}. Ctrl-C ends it. To ask:", err=True)
    click.echo(f"\n{curl}\n")


def curl_line(server: "ModelServer", key_from_environment: bool) -> str:
    """A command for a POSIX shell that asks the server. A key from the environment is named, not shown."""
    words = ["curl", f"{server.url}/chat/completions" if server.served.has_template else f"{server.url}/completions"]
    words += ["-H", "Content-Type: application/json"]
    chat, text = {"messages": [{"role": "user", "content": "Hello!"}]}, {"prompt": "Once upon a time"}
    body = chat if server.served.has_template else text
    words += ["-d", json.dumps({"model": server.served.name, **body})]
    line = shlex.join(words)
    if server.api_key is None:
        return line
    if key_from_environment:
        return f'{line} -H "Authorization: Bearer ${KEY_VARIABLE}"'
    header = shlex.quote(f"Authorization: Bearer {server.api_key}")
    return f"{line} -H {header}"


@contextmanager
def stopping(running: list["ModelServer"]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the server in the list in good order. Before there is one, or the second time, they end
    all at once.
    """
    told = False

    def handle(*_: object) -> None:
        nonlocal told
        if told or not running:
            raise KeyboardInterrupt
        told = True
        running[0].stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
