"""A headless Chromium for tests, driven over the pipe that it offers itself (--remote-debugging-pipe): no driver, no
port, no package.

    with Browser() as browser:
        page = browser.page(width=360, height=800, dark=True)
        page.open(path)                      # a file or an URL; waits until it is loaded
        page.js("document.title")            # JSON in, JSON out; a promise is awaited
        page.press("Tab")
        page.picture(Path("shot.png")), page.pdf()
        page.requests, page.problems         # every URL that was asked for; console errors, exceptions, refusals of the
        CSP

Protocol: https://chromedevtools.github.io/devtools-protocol/ (messages are JSON, each ended by a zero byte).
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--mute-audio",
    "--remote-debugging-pipe",
)
# Chromium reads commands from its file descriptor 3 and answers on 4; subprocess can't put a pipe on a chosen number.
PLUG = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    " ": 32,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome, or None. $CHROMIUM names another one."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One headless Chromium with an empty profile, gone with all its processes when the block ends."""

    def __init__(self, *flags: str, seconds: float = 60.0) -> None:
        """Start it; `seconds` is how long any one command may take.

        Raises:
            FileNotFoundError: no Chromium is installed.
        """
        program = find_chromium()
        if program is None:
            raise FileNotFoundError(f"none of {', '.join(NAMES)} is installed; $CHROMIUM may name another one")
        self.seconds = seconds
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        read_there, self._out = os.pipe()
        self._in, write_there = os.pipe()
        there = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read_there, write_there)]  # out of the way of 3 and 4
        command = [
            sys.executable,
            "-c",
            PLUG,
            *map(str, there),
            program,
            *FLAGS,
            f"--user-data-dir={self.profile}",
            *flags,
            "about:blank",
        ]
        self._process = subprocess.Popen(
            command,
            pass_fds=there,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (read_there, write_there, *there):
            os.close(end)
        self._rest, self._number = b"", 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        try:
            self.version: str = self.call("Browser.getVersion")["product"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it and everything that it started."""
        for end in (self._in, self._out):
            os.close(end)
        with contextlib.suppress(subprocess.TimeoutExpired):  # its pipe is gone, so it leaves by itself
            self._process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    def page(
        self, width: int = 1280, height: int = 900, dark: bool = False, scale: float = 1.0, script: bool = True
    ) -> "Page":
        """A new empty tab of that size in CSS pixels; `scale` device pixels each. Without `script`, the page's own
        scripts don't run.
        """
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.resize(width, height, scale)
        page.call(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
        )
        if not script:
            page.call("Emulation.setScriptExecutionDisabled", {"value": True})
        return page

    def call(self, method: str, params: Mapping[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        """One command and its answer.

        Raises:
            RuntimeError: Chromium refused it, ended, or didn't answer in time.
        """
        self._number += 1
        mine = self._number
        message = {
            "id": mine,
            "method": method,
            "params": dict(params or {}),
            **({"sessionId": session} if session else {}),
        }
        waiting = json.dumps(message).encode() + b"\0"
        while waiting:
            waiting = waiting[os.write(self._out, waiting) :]
        end = time.monotonic() + self.seconds
        while mine not in self._answers:
            self._read(end, method)
        answer = self._answers.pop(mine)
        if "error" in answer:
            raise RuntimeError(f"chromium: {method}: {answer['error'].get('message')}")
        return answer["result"]  # type: ignore[no-any-return]

    def listen(self, seconds: float) -> None:
        """Take in what Chromium reports within that time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and select.select([self._in], [], [], left)[0]:
            self._read(end, "listen")

    def _read(self, end: float, method: str) -> None:
        if not select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]:
            raise RuntimeError(f"chromium: {method}: no answer in {self.seconds:.0f} s")
        found = os.read(self._in, 1 << 20)
        if not found:
            raise RuntimeError(f"chromium: {method}: it ended with exit status {self._process.wait()}")
        *whole, self._rest = (self._rest + found).split(b"\0")
        for text in whole:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            elif message.get("sessionId") in self._pages:
                self._pages[message["sessionId"]].take(message["method"], message["params"])


class Page:
    """One tab: what it asked for and what went wrong in it is kept from its first moment."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.browser, self.session, self.target = browser, session, target
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.console: list[str] = []
        self._loaded = False

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One command of the protocol to this tab."""
        return self.browser.call(method, params, self.session)

    def take(self, event: str, params: Mapping[str, Any]) -> None:
        """Note one event of Chromium's."""
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(f"exception: {details.get('exception', {}).get('description') or details['text']}")
        elif event == "Runtime.consoleAPICalled":
            words = " ".join(str(part.get("value", part.get("description", ""))) for part in params["args"])
            self.console.append(f"{params['type']}: {words}")
            if params["type"] in ("error", "warning", "assert"):
                self.problems.append(f"console {params['type']}: {words}")
        elif event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(
                f"log {params['entry']['level']}: {params['entry']['text']} {params['entry'].get('url', '')}".rstrip()
            )
        elif event == "Page.loadEventFired":
            self._loaded = True

    def open(self, address: str | Path) -> None:
        """Load a file or an URL and wait for its load event.

        Raises:
            RuntimeError: it can't be loaded.
        """
        self._loaded = False
        url = address.resolve().as_uri() if isinstance(address, Path) else address
        failed = self.call("Page.navigate", {"url": url}).get("errorText")
        if failed:
            raise RuntimeError(f"chromium: {url}: {failed}")
        end = time.monotonic() + self.browser.seconds
        while not self._loaded:
            if time.monotonic() > end:
                raise RuntimeError(f"chromium: {url}: not loaded in {self.browser.seconds:.0f} s")
            self.browser.listen(0.05)

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, as JSON types; a promise is awaited.

        Raises:
            RuntimeError: it threw.
        """
        found = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise RuntimeError(
                f"chromium: {expression[:80]}: {details.get('exception', {}).get('description') or details['text']}"
            )
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 30.0) -> Any:
        """The first value of the expression that is true in JavaScript's sense.

        Raises:
            RuntimeError: there was none in that time; the page's problems are named.
        """
        end = time.monotonic() + seconds
        while not (found := self.js(expression)):
            if time.monotonic() > end:
                raise RuntimeError(
                    f"chromium: {expression[:80]} was not true in {seconds:.0f} s; problems: {self.problems}"
                )
            self.browser.listen(0.1)
        return found

    def resize(self, width: int, height: int, scale: float = 1.0) -> None:
        """Another size of the tab, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False},
        )

    def press(self, key: str, shift: bool = False) -> None:
        """One key, as a keyboard gives it: a name of KEYS or a character."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS.get(key, 0), "modifiers": 8 if shift else 0}
        words = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 else "")
        self.call(
            "Input.dispatchKeyEvent",
            {"type": "keyDown" if words else "rawKeyDown", **common, **({"text": words} if words else {})},
        )
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **common})

    def type(self, words: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", {"text": words})

    def picture(self, path: Path, whole: bool = True, clip: Mapping[str, float] | None = None) -> Path:
        """A PNG of the whole page, of what is seen, or of a `clip` {x, y, width, height} in CSS pixels."""
        self.call("Page.bringToFront")  # a tab behind another one isn't drawn
        params: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole or clip is not None}
        if clip is None and whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"]}
        if clip is not None:
            params["clip"] = {**clip, "scale": 1}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", params)["data"]))
        return path

    def pdf(self) -> bytes:
        """The page printed on A4, with the page's own margins."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True, "printBackground": True}
        return base64.b64decode(self.call("Page.printToPDF", size)["data"])

    def close(self) -> None:
        """Shut the tab."""
        self.browser.call("Target.closeTarget", {"targetId": self.target})
