"""The chat command, on a tiny file, with piped questions."""

import json
import os
import signal

import pytest
from click.testing import CliRunner

from edgedistill.cli.artifacts import find_artifact
from edgedistill.cli.chat import chat
from edgedistill.errors import InputError
from edgedistill.runtimes.base import Runtime
from tests.runtimes.conftest import write_gguf

QUIET = ["--threads", "1", "--max-tokens", "12", "--context", "128"]


def talk(text, *arguments):
    return CliRunner().invoke(chat, [*map(str, arguments), *QUIET], input=text, catch_exceptions=False)


def test_piped_questions_get_answers_and_a_history(gguf_file, llama):
    found = talk("Hello there\n\n What next?\n/reset\nHello there\n/quit\nnever asked\n", gguf_file, "--json", "--temperature", "0")
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert [a["question"] for a in answers] == ["Hello there", "What next?", "Hello there"]
    assert answers[0]["answer"] == answers[2]["answer"]  # forgotten
    conversation = [{"role": "user", "content": "Hello there"}]
    assert answers[0]["answer"] == "".join(llama.chat(conversation, max_tokens=12))
    conversation += [{"role": "assistant", "content": answers[0]["answer"]}, {"role": "user", "content": "What next?"}]
    assert answers[1]["answer"] == "".join(llama.chat(conversation, max_tokens=12))
    assert answers[1]["prompt_tokens"] == len(llama.apply_template(conversation)[1])
    assert 0 < answers[0]["tokens"] <= 12
    assert "tiny.gguf in llama-cpp-python" in found.stderr


def test_text_mode_streams_to_stdout_and_counts_on_stderr(gguf_file, llama):
    found = talk("Hi\n", gguf_file, "--system", "Be kind.", "--temperature", "0")
    conversation = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    plain = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in "".join(llama.chat(conversation, max_tokens=12)))
    assert len(found.stdout) >= len(plain)
    assert "tokens/s, first after" in found.stderr
    assert "tokens/s" not in found.stdout


def test_escapes_in_an_answer_do_nothing(gguf_file, monkeypatch):
    monkeypatch.setattr(Runtime, "chat", lambda *_, **__: (text for text in ["\x1b[2J\x1b]0;title\x07", "a\u202eb\nc"]))
    found = talk("Hi\n", gguf_file)
    assert found.stdout == "␛[2J␛]0;title␇a⟨U+202E⟩b\nc\n"


def test_ctrl_c_ends_the_answer_and_not_the_conversation(gguf_file, monkeypatch):
    whole = Runtime.chat
    questions = 0

    def interrupted(self, *arguments, **settings):
        nonlocal questions
        questions += 1
        for number, piece in enumerate(whole(self, *arguments, **settings)):
            if questions == 1 and number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield piece

    monkeypatch.setattr(Runtime, "chat", interrupted)
    found = talk("Hi\nGo on\n", gguf_file, "--json", "--temperature", "0")
    first, second = (json.loads(line) for line in found.stdout.splitlines())
    assert (first["finish"], first["tokens"]) == ("interrupted", 3)
    assert second["finish"] != "interrupted"
    assert second["answer"]


def test_onnx_folder_answers(onnx_folder):
    found = talk("Hello\n", onnx_folder[0], "--json")
    assert json.loads(found.stdout)["tokens"] > 0
    assert "onnxruntime 1." in found.stderr


def test_too_long_a_question_ends_a_pipe(gguf_file):
    with pytest.raises(InputError, match="the conversation has [0-9]+ tokens and the context holds 128"):
        talk("word " * 400, gguf_file)


def test_model_without_template_is_one_sentence(hf_folder, tmp_path):
    path = write_gguf(hf_folder, tmp_path / "plain.gguf", template=False)
    with pytest.raises(InputError, match="plain.gguf: it has no chat template, so it can't be talked to") as caught:
        talk("Hi\n", path)
    assert caught.value.exit_code == 2


@pytest.fixture
def run(tmp_path):
    """A run folder as compile leaves it, with empty artifacts."""
    bundle = tmp_path / "run" / "bundle"
    for name in ("onnx-q8_0", "onnx-q4_0"):
        (bundle / name / "onnx").mkdir(parents=True)
        (bundle / name / "config.json").touch()
    for name in ("my-model-q8_0.gguf", "my-model-q4_0.gguf"):
        (bundle / name).touch()
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("inside", "runtime", "mix", "expected"),
    [
        ("", None, None, ("llama.cpp", "bundle/my-model-q4_0.gguf")),
        ("", None, "q8_0", ("llama.cpp", "bundle/my-model-q8_0.gguf")),
        ("", "onnxruntime", None, ("onnxruntime", "bundle/onnx-q4_0")),
        ("bundle", "onnxruntime", "q8_0", ("onnxruntime", "bundle/onnx-q8_0")),
        ("bundle/onnx-q8_0", None, None, ("onnxruntime", "bundle/onnx-q8_0")),
        ("bundle/my-model-q8_0.gguf", None, None, ("llama.cpp", "bundle/my-model-q8_0.gguf")),
    ],
)
def test_artifacts_are_found(run, inside, runtime, mix, expected):
    assert find_artifact(run / inside, runtime, mix) == (expected[0], run / expected[1])


@pytest.mark.parametrize(
    ("inside", "runtime", "mix", "words"),
    [
        ("absent", None, None, "absent: there is no such file or folder; name a .gguf file"),
        ("", None, "q5_0", "it has no mix 'q5_0' for llama.cpp; it has q4_0, q8_0"),
        ("bundle/onnx-q8_0/onnx", None, None, "it holds no artifact for llama.cpp"),
        ("bundle/my-model-q8_0.gguf", "onnxruntime", None, "it runs in llama.cpp, not in onnxruntime; leave --runtime out"),
        ("bundle/onnx-q8_0", None, "q8_0", "--mix chooses among the artifacts of a run folder, and this is one artifact"),
    ],
)
def test_what_is_no_artifact_is_one_sentence(run, inside, runtime, mix, words):
    with pytest.raises(InputError) as caught:
        find_artifact(run / inside, runtime, mix)
    assert words in str(caught.value)
