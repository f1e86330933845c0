"""The figures of a served file beside our own, and answers at once, from a server on a tiny one."""

import pytest
import serve

from tests.runtimes.conftest import write_gguf


def test_a_figure_is_within_where_the_interval_holds_it():
    own = [True] * 5 + [False] * 5
    same = serve.compared(own, own)
    assert (same["ours"], same["harness"], same["within"], same["items_alike"]) == (0.5, 0.5, True, 10)
    assert same["low"] < 0.5 < same["high"]
    other = serve.compared(own, [True] * 10)
    assert (other["harness"], other["within"], other["items_alike"]) == (1.0, False, 5)


def test_requests_at_once_are_all_counted(talking_llama, tmp_path, monkeypatch):
    path = write_gguf(talking_llama, tmp_path / "talking.gguf")
    monkeypatch.setattr(serve, "CONTEXT", 128)
    with serve.served(path, threads=1) as server:
        assert server.model == "talking"
        tokens = [serve.ask(server, prompt) for prompt in serve.PROMPTS[:2]]
        assert all(0 < count <= serve.ANSWER_TOKENS for count in tokens)
        found = serve.rounds(server, 2)
    assert found["requests"] == 8
    assert [trial["ratio"] for trial in found["rounds"]] == pytest.approx(
        [trial["at_once"] / trial["one_by_one"] for trial in found["rounds"]]
    )
    assert found["ratio"]["min"] <= found["ratio"]["median"] <= found["ratio"]["max"]
