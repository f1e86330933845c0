"""The serve command as a process of its own: what it prints, how it ends, and what it refuses."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import openai
import psutil
import pytest
from click.testing import CliRunner

from edgedistill.cli.main import cli
from edgedistill.cli.serve import curl_line
from tests.cli.terminal import Terminal
from tests.runtimes.conftest import write_gguf

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(talking_llama, tmp_path_factory):
    """A run folder with one GGUF file in its bundle, whose name needs quoting."""
    run = tmp_path_factory.mktemp("run")
    (run / "bundle").mkdir()
    write_gguf(talking_llama, run / "bundle" / "it's tiny-q8_0.gguf")
    return run


class Process:
    """`edgedistill serve`, read until it is ready."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgedistill", "serve", *map(str, arguments), "--port", "0", "--threads", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        """The next line of stdout."""
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return line

    def stop(self, how: int) -> tuple[int, str]:
        """Send a signal; exit code and stderr."""
        self.process.send_signal(how)
        _, shown = self.process.communicate(timeout=30)
        return self.process.returncode, shown


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_when_it_says_so_and_leaves_nothing_behind(bundle, how):
    with Process(bundle, "--json") as serve:
        ready = json.loads(serve.line())
        assert set(ready) == {"url", "model", "file", "runtime", "context", "pid", "curl"}
        assert (ready["model"], ready["context"], ready["pid"]) == ("it's tiny-q8_0", 256, serve.process.pid)
        with openai.OpenAI(base_url=ready["url"], api_key="none", max_retries=0) as client:  # at once: it is ready
            answer = client.chat.completions.create(
                model=ready["model"], messages=[{"role": "user", "content": "Hi"}], max_tokens=4
            )
        assert answer.usage.completion_tokens > 0
        children = psutil.Process(serve.process.pid).children(recursive=True)
        assert len(children) == 2  # the server, and the process that renders the template
        code, shown = serve.stop(how)
        assert code == 0
        assert re.fullmatch(r"\d\d:\d\d:\d\d POST /v1/chat/completions 200, \d+\.\d s\nStopped\.\n", shown)
    assert not psutil.wait_procs(children, timeout=10)[1]  # the template's process sees the end of its stdin
    port = int(ready["url"].split(":")[2].removesuffix("/v1"))
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_it_says_which_system_message_a_conversation_without_one_gets(bundle, tmp_path):
    run = Path(shutil.copytree(bundle, tmp_path / "run"))
    held = {"schema": "edgedistill.bundle/1", "system": "Be\x1b[31m kind."}
    (run / "bundle" / "bundle.json").write_text(json.dumps(held))
    with Process(run, "--json") as serve:
        serve.line()
        _, shown = serve.stop(signal.SIGTERM)
    assert shown.splitlines()[0] == "A conversation without a system message gets that of the training: Be␛[31m kind."


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("key", ["option", "variable", "none"])
def test_the_curl_line_runs(bundle, key):
    arguments = ["--api-key", "it's-s3cret"] if key == "option" else []
    variables = {"EDGEDISTILL_API_KEY": "s3cret"} if key == "variable" else {}
    with Process(bundle, "--name", "my 'model'", *arguments, **variables) as serve:
        assert re.match(
            r".*it's tiny-q8_0\.gguf answers at http://127\.0\.0\.1:\d+/v1 as \"my 'model'\"\n", serve.line()
        )
        serve.line()
        line = serve.line()
        assert ("s3cret" in line) == (key == "option")
        done = subprocess.run(
            ["sh", "-c", line], capture_output=True, text=True, env={**os.environ, **variables}, check=True
        )
        assert json.loads(done.stdout)["choices"][0]["message"]["role"] == "assistant"


def test_a_server_whose_parent_is_killed_ends_too(bundle):
    with Process(bundle, "--json") as serve:
        serve.line()
        (child,) = psutil.Process(serve.process.pid).children()
        serve.process.kill()
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running()


def test_ctrl_c_in_a_terminal_ends_it(bundle):
    with Terminal("serve", bundle, "--port", "0", "--threads", "1") as terminal:
        terminal.wait_for("curl http")
        terminal.send("\x03")
        assert terminal.end() == 0
        assert terminal.shown.endswith("Stopped.\n")
        assert "Traceback" not in terminal.shown


def test_a_signal_while_it_loads_ends_it_at_once(bundle):
    with Process(bundle) as serve:
        worker = None
        deadline = time.monotonic() + 30
        while worker is None and time.monotonic() < deadline:
            worker = next(iter(psutil.Process(serve.process.pid).children()), None)
        code, shown = serve.stop(signal.SIGTERM)
        assert (code, shown.endswith("Stopped.\n")) in ((130, True), (0, True))
    psutil.wait_procs([worker], timeout=10)  # one that is still importing hears of it when it has
    assert not worker.is_running()


def test_a_worker_that_dies_is_one_sentence_and_1(bundle):
    with Process(bundle, "--json") as serve:
        serve.line()
        (child,) = psutil.Process(serve.process.pid).children()
        child.kill()
        _, shown = serve.process.communicate(timeout=30)
    assert serve.process.returncode == 1
    assert re.search(r"^Error: .*q8_0\.gguf: the runtime's process ended by SIGKILL during 'wait'.*\n\Z", shown)


def test_other_machines_are_let_in_only_with_a_warning(bundle):
    words = "Warning: 0.0.0.0 lets other machines in, and without --api-key whoever reaches it may ask."
    for arguments, expected in ([], True), (["--api-key", "x"], False):
        with Process(bundle, "--json", "--host", "0.0.0.0", *arguments) as serve:
            assert json.loads(serve.line())["url"].startswith("http://127.0.0.1:")
            _, shown = serve.stop(signal.SIGTERM)
        assert (words in shown) == expected


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["serve", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_what_cannot_be_served_is_one_sentence_and_2(bundle, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: this port is in use; choose another --port, or 0" in refused(bundle, "--port", port)
    assert "--host nowhere.invalid: no such address" in refused(bundle, "--host", "nowhere.invalid", "--port", 0)
    assert "there is no such file or folder" in refused(tmp_path / "absent")
    assert "it has no mix 'q4_0' for llama.cpp; it has q8_0" in refused(bundle, "--mix", "q4_0")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "config.json").touch()
    assert "serve is for GGUF files, and this is ONNX" in refused(tmp_path)
    for key in ("", "a b", "clé", "a\n"):
        assert "--api-key is empty or holds a character that a header can't" in refused(bundle, "--api-key", key)
    assert "--name is empty" in refused(bundle, "--name", " ")


def test_a_missing_package_is_named_with_the_line_that_helps(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert "serve needs llguidance, which is not installed. Run: pip install 'edgedistill[serve]'" in refused(bundle)


def test_a_hostile_name_stays_one_word_of_the_shell():
    class Served:
        name, has_template = "x'; touch owned; \x1b[31m$(id)", True

    class Server:
        url, api_key, served = "http://127.0.0.1:1/v1", None, Served

    line = curl_line(Server, key_from_environment=False)
    words = subprocess.run(
        ["sh", "-c", line.replace("curl", "printf '%s\\n'", 1)], capture_output=True, text=True, check=True
    )
    assert "\x1b" not in line
    assert json.loads(words.stdout.splitlines()[-1])["model"] == Served.name
