"""The page at / and the health at /health, of a real server on a tiny file, and the page in Chromium where there is
one.
"""

import http.client
import json
import re

import pytest

from edgedistill.serve.server import ModelServer, ServeSettings
from edgedistill.serve.server_page import FILES, FOLDER
from tests.chromium import Page, find_chromium
from tests.runtimes.conftest import write_gguf


@pytest.fixture(scope="module")
def file(talking_llama, tmp_path_factory):
    return write_gguf(talking_llama, tmp_path_factory.mktemp("page") / "talking.gguf")


@pytest.fixture(scope="module")
def server(file):
    with ModelServer(file, ServeSettings(port=0, threads=1, api_key="s3cret", name="<b>my model</b>")) as server:
        server.start()
        yield server


def get(server, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_health_is_json_and_needs_no_key(server):
    status, headers, body = get(server, "/health")
    assert (status, headers["content-type"]) == (200, "application/json")
    health = json.loads(body)
    assert health == {
        "status": "ok",
        "model": "<b>my model</b>",
        "runtime": server.served.version,
        "context": server.served.context,
        "chat": True,
        "key_required": True,
    }
    assert get(server, "/health", "HEAD")[::2] == (200, b"")
    assert get(server, "/v1/models")[0] == 401, "what a key protects stays protected"


@pytest.mark.parametrize("path", FILES)
def test_the_page_comes_with_a_policy_and_loads_nothing_from_elsewhere(path: str, server):
    status, headers, body = get(server, path)
    assert status == 200
    assert body == (FOLDER / FILES[path][0]).read_bytes()
    assert headers["content-type"] == FILES[path][1]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert not re.search(rb"https?://|innerHTML|insertAdjacent|document\.write|eval\(", body)


def test_the_pages_files_are_those_that_are_served():
    assert {name for name, _ in FILES.values()} == {path.name for path in FOLDER.iterdir()}


@pytest.mark.slow
def test_the_page_asks_and_shows_what_is_said_as_text(file, tmp_path):
    if find_chromium() is None:
        pytest.skip("needs Chromium")
    with (
        ModelServer(file, ServeSettings(port=0, threads=1, name="<b>my model</b>")) as server,
        Page(tmp_path / "profile") as page,
    ):
        server.start()
        page.open(server.page)
        page.wait_for("!document.getElementById('question')?.disabled", 60)
        assert page.run("document.getElementById('model').textContent") == "<b>my model</b>"
        page.type("<img src=x onerror=alert(1)>")
        page.wait_for("document.querySelectorAll('.turn').length == 2 && !document.getElementById('send').disabled", 60)
        assert page.run("document.querySelector('.user').textContent") == "<img src=x onerror=alert(1)>"
        assert page.run("document.querySelectorAll('img, b').length") == 0
        assert page.errors == []
        assert page.requests
        assert all(url.startswith(server.page) for url in page.requests)
