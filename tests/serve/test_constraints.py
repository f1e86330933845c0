"""Grammars and schemas: what they allow, and that a hostile one costs its own process alone."""

import http.client
import json
import threading
import time
from dataclasses import replace

import psutil
import pytest

from edgedistill.errors import InputError
from edgedistill.models.pretokenizers import PRE_TOKENIZERS
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.runtimes.long_runs import MOST, SAFE_SPLITS, check_runs
from edgedistill.serve import constraint
from edgedistill.serve.answer_text import AnswerText
from edgedistill.serve.refused import Refused
from edgedistill.serve.server import ModelServer, ServeSettings
from edgedistill.serve.tools import Tool, ToolChoice, call_grammar
from tests.runtimes.conftest import write_gguf
from tests.serve.test_server import HELLO, post


@pytest.fixture(scope="module")
def file(talking_llama, tmp_path_factory):
    return write_gguf(talking_llama, tmp_path_factory.mktemp("constraints") / "talking.gguf")


@pytest.fixture(scope="module")
def vocab(file):
    with LlamaCpp(file, threads=1, context=64) as runtime:
        return [runtime.detokenize([token], special=True) for token in range(runtime.info().vocab)]


@pytest.fixture(scope="module")
def service(file, vocab):
    service = constraint.ConstraintService(str(file), len(vocab), 256)
    yield service
    service.close()


def allowed(following: constraint.Constraint, vocab: list[str]) -> set[str]:
    """The texts of the tokens that may come next."""
    following.wait()
    return {vocab[token] for token in following.poll().nonzero()[0]}


@pytest.mark.parametrize(
    ("given", "text", "then"),
    [
        ({"gbnf": 'root ::= "ab" [0-9]'}, "ab", set("0123456789")),
        ({"schema": {"type": "integer", "minimum": 30, "maximum": 39}}, "3", set("0123456789")),
        ({"schema": {"enum": ["a", "b"]}}, '"', {"a", "b"}),
        ({"schema": {"type": "object", "properties": {"n": {"type": "null"}}, "required": ["n"]}}, '{"n":', {" "}),
        ({"lark": 'start: "x" %json {"type": "boolean"}', "schemas": []}, "xtr", {"u", "ue"}),
    ],
)
def test_the_tokens_that_may_come_next(service, vocab, given, text, then):
    following = service.open(given)
    for character in text:
        assert character in allowed(following, vocab)
        following.accept(vocab.index(character))
    assert allowed(following, vocab) <= then
    assert allowed(following, vocab)
    following.close()


def test_a_call_that_may_be_made_fits_its_schema_where_the_tool_is_strict(service, vocab):
    tool = Tool({}, "f", {"type": "object", "properties": {"n": {"type": "null"}}, "required": ["n"]}, strict=True)
    for tagged, begin in ((True, "x<tool_call>\n"), (False, "")):
        following = service.open(call_grammar([tool], ToolChoice(), tagged))
        for character in begin + '{"':
            assert character in allowed(following, vocab)
            following.accept(vocab.index(character))
        assert "n" in allowed(following, vocab)  # of "name"
        assert "}" not in allowed(following, vocab)
        following.close()
    following = service.open(call_grammar([tool], ToolChoice(), False))
    assert {"T", "{"} <= allowed(following, vocab)
    assert "[" not in allowed(following, vocab)
    following.close()
    assert call_grammar([replace(tool, strict=False)], ToolChoice(), False) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gbnf": "root ::= [z-a]"}, "allows no token"),
        ({"gbnf": "root ::= " + "(" * 100_000}, "llama.cpp fails on it|has an error"),
        ({"schema": {"type": "string", "minLength": 10**9}}, "minLength is 1e\\+09, and the context holds fewer than"),
        ({"schema": {"type": "array", "minItems": 10**9}}, "minItems is 1e\\+09"),
        ({"schema": {"type": "string", "format": "no-such"}}, "Unknown format"),
        ({"schema": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"schema": {"$ref": "https://example.org/schema"}}, "does not fetch"),
        ({"schema": json.loads('{"items":' * 400 + "{}" + "}" * 400)}, "can't be followed|takes more memory"),
    ],
)
def test_what_cannot_be_followed_is_a_sentence(service, given, words):
    with pytest.raises(Refused, match=words):
        service.open(given)
    service.open({"gbnf": 'root ::= "a"'}).close()


def test_one_that_takes_too_long_is_given_up(service, monkeypatch):
    monkeypatch.setattr(constraint, "FIRST_S", 0.5)
    started = time.monotonic()
    with pytest.raises(Refused, match="takes too long"):
        service.open({"gbnf": "root ::= " + " ".join(["[a-z]?"] * 300)})
    assert time.monotonic() - started < 5


def test_a_process_that_does_not_start_is_ended_and_the_next_request_starts_another(file, vocab, monkeypatch):
    service = constraint.ConstraintService(str(file), len(vocab), 256)
    started = set(psutil.Process().children())
    quick = {"gbnf": 'root ::= "a"'}
    for _ in range(2):  # a first start, and one after a worker has died
        with monkeypatch.context() as patch:
            patch.setattr(constraint, "START_S", 0.01)
            with pytest.raises(Refused, match="follows grammars and JSON schemas does not run; ask again") as caught:
                service.open(quick)
        assert caught.value.status == 503
        assert set(psutil.Process().children()) <= started
        service.open(quick).close()
        psutil.Process(service.pid).kill()
        time.sleep(0.1)
    service.close()


SLOW = "root ::= " + " ".join(["[a-z]?"] * 300)


def test_a_computation_that_nobody_waits_for_ends(service):
    service.open({"gbnf": 'root ::= "a"'}).close()
    worker = psutil.Process(service.pid)
    following = service.begin({"gbnf": SLOW})
    time.sleep(0.5)
    (computing,) = worker.children()
    following.close()
    assert not psutil.wait_procs([computing], timeout=5)[1]


def test_a_client_that_leaves_while_its_grammar_computes_holds_no_place(file):
    slow = {"messages": HELLO, "max_tokens": 8, "grammar": SLOW}
    with ModelServer(file, ServeSettings(port=0, threads=1, parallel=1)) as server:
        server.start()
        quick = {"messages": HELLO, "max_tokens": 8, "grammar": 'root ::= "a"'}
        post(server, quick)
        leaving = [http.client.HTTPConnection(server.host, server.port) for _ in range(3)]
        for connection in leaving:
            connection.request("POST", "/v1/chat/completions", json.dumps(slow))
        time.sleep(0.5)
        for connection in leaving:
            connection.close()
        started = time.monotonic()
        assert post(server, quick)[0] == 200
        assert time.monotonic() - started < 3


def test_others_are_answered_while_a_grammar_computes(file):
    body = {"messages": HELLO, "max_tokens": 8, "grammar": SLOW}
    with ModelServer(file, ServeSettings(port=0, threads=1, parallel=1)) as server:
        server.start()
        post(server, body | {"grammar": 'root ::= "a"'})  # the process for grammars starts
        slow = threading.Thread(target=post, args=(server, body))
        slow.start()
        time.sleep(0.5)
        started = time.monotonic()
        assert post(server, {"messages": HELLO, "max_tokens": 2})[0] == 200
        assert time.monotonic() - started < 3
        slow.join()


def test_a_long_string_may_be_asked_for(file):
    with ModelServer(file, ServeSettings(port=0, threads=1)) as server:
        server.start()
        form = {"type": "json_object", "schema": {"type": "string", "maxLength": 50_000}}
        status, _, answer = post(server, {"messages": HELLO, "max_tokens": 8, "response_format": form})
        assert status == 200
        assert answer["choices"][0]["message"]["content"].startswith('"')


def test_stop_texts_are_found_across_pieces_and_characters_are_whole():
    text = AnswerText(("END", "NO"))
    assert [text.add(part) for part in (b"a E", b"N", b"O", "é".encode()[:1], "é".encode()[1:])] == [
        "a ",
        "",
        "E",
        "",
        "",
    ]
    assert text.stopped
    assert text.end() == ""
    text = AnswerText()
    assert [text.add("é".encode()[:1]), text.holds, text.end()] == ["", True, "\ufffd"]
    text = AnswerText(("END",))
    assert [text.add(b"x EN"), text.end()] == ["x ", "EN"]


def test_a_text_of_which_llama_cpp_would_die_is_refused():
    assert set(PRE_TOKENIZERS) - SAFE_SPLITS == {"tekken", "gpt-4o"}
    for text in ("a" * MOST, "b " + " " * MOST, "." * MOST):
        with pytest.raises(InputError, match="10000 characters from character"):
            check_runs(text, "gpt2", "gpt-4o")
        check_runs(text, "gpt2", "llama-bpe")
        check_runs(text, "llama", None)
    check_runs("words " * MOST, "gpt2", "gpt-4o")
