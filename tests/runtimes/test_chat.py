"""The chat command, on a tiny file, with piped questions."""

import json
import os
import signal

import pytest
from click.testing import CliRunner

from edgedistill.cli.artifacts import find_artifact
from edgedistill.cli.chat import chat
from edgedistill.cli.conversation import Conversation
from edgedistill.errors import InputError
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.llama import LlamaCpp
from tests.runtimes.conftest import write_gguf
from tests.tiny import make_tiny_llama

QUIET = ["--threads", "1", "--max-tokens", "12", "--context", "128"]


def talk(text, *arguments):
    return CliRunner().invoke(chat, [*map(str, arguments), *QUIET], input=text, catch_exceptions=False)


def test_piped_questions_get_answers_and_a_history(gguf_file, llama):
    found = talk(
        "Hello there\n\n What next?\n/reset\nHello there\n/quit\nnever asked\n",
        gguf_file,
        "--json",
        "--temperature",
        "0",
    )
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
    plain = "".join(
        c if c.isprintable() or c in "\n\t" else "?" for c in "".join(llama.chat(conversation, max_tokens=12))
    )
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
    assert (first["finish"], first["tokens"]) == ("interrupted", 2)
    assert second["finish"] != "interrupted"
    assert second["answer"]


def test_a_second_ctrl_c_leaves(gguf_file, monkeypatch):
    def interrupted(*_, **__):
        yield "a"
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        yield "b"

    monkeypatch.setattr(Runtime, "chat", interrupted)
    found = talk("Hi\nGo on\n", gguf_file)
    assert (found.exit_code, found.stdout) == (130, "a")
    assert found.stderr.endswith("\nStopped.\n")


def test_ctrl_c_before_the_first_word_takes_the_question_back(gguf_file, monkeypatch):
    asked = []

    def reading(self, messages, **_):
        asked.append(list(messages))
        if len(asked) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            self.reading = (128, 1000)
            yield ""
        yield "word"

    monkeypatch.setattr(Runtime, "chat", reading)
    first, second = (json.loads(line) for line in talk("Hi\nGo on\n", gguf_file, "--json").stdout.splitlines())
    assert (first["finish"], first["answer"], second["answer"]) == ("interrupted", "", "word")
    assert asked[1] == [{"role": "user", "content": "Go on"}]


def test_a_long_conversation_may_be_stopped_while_it_is_read(hf_folder, tmp_path):
    path = write_gguf(make_tiny_llama(tmp_path / "hf", context=2048), tmp_path / "long.gguf")
    conversation = [{"role": "user", "content": "word " * 150}]
    with LlamaCpp(path, threads=1, context=2048, parallel=1) as model:
        count = len(model.apply_template(conversation)[1])
        pieces = model.chat(conversation, max_tokens=4)
        assert next(pieces) == ""
        assert model.reading == (128, count)
        pieces.close()
        assert "".join(model.chat(conversation, max_tokens=4)) == "".join(
            model.chat(conversation, max_tokens=4, keep=True)
        )


def test_what_two_conversations_share_is_read_once_and_nothing_else_changes(gguf_file, float_logits):
    """Each answer is greedy, so it is that of the float model, whatever was kept."""
    first = [{"role": "user", "content": "What is the capital of France?"}]
    with LlamaCpp(gguf_file, threads=1, context=256, parallel=1) as model:
        answer = "".join(model.chat(first, max_tokens=8, keep=True))
        longer = [*first, {"role": "assistant", "content": answer}, {"role": "user", "content": "And of the sea?"}]
        for messages in (longer, first, [{"role": "user", "content": "What now?"}], longer, first):
            ids = model.apply_template(messages)[1]
            made = model.tokenize("".join(model.chat(messages, max_tokens=8, keep=True)))
            fresh = "".join(model.chat(messages, max_tokens=8))
            assert made == model.tokenize(fresh)
            assert float_logits(ids)[-1].argmax() == model.generate(ids, 1)[0]
        list(model.logits([1, 2, 3]))  # takes the context for itself
        assert "".join(model.chat(first, max_tokens=8, keep=True)) == answer


def test_the_oldest_questions_are_forgotten_where_the_context_is_full(gguf_file):
    lines = [f"Question number {number} is about a fox" for number in range(8)]
    found = talk("\n".join(lines), gguf_file, "--json", "--temperature", "0")
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert [answer["question"] for answer in answers] == lines
    assert answers[0]["forgotten"] == 0
    assert sum(answer["forgotten"] for answer in answers) >= 3
    assert all(answer["prompt_tokens"] + answer["tokens"] <= 128 for answer in answers)
    assert "[the context of 128 tokens is full: the oldest " in found.stderr
    assert "forgotten; /reset starts anew]" in found.stderr


def test_the_system_message_is_never_forgotten():
    class Model:
        def apply_template(self, messages):
            return "", [0] * 10 * len(messages)

    conversation = Conversation(Model(), 100, "Be kind.")
    for _ in range(4):
        conversation.say("user", "x")
        conversation.say("assistant", "y")
    conversation.say("user", "last")
    assert conversation.make_room(500) == 3  # 100 tokens and 25 of the answer; 75 hold both, and the next question
    assert [message["content"] for message in conversation.messages] == ["Be kind.", "x", "y", "last"]
    assert conversation.make_room(500) == 0


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
        (
            "bundle/my-model-q8_0.gguf",
            "onnxruntime",
            None,
            "it runs in llama.cpp, not in onnxruntime; leave --runtime out",
        ),
        (
            "bundle/onnx-q8_0",
            None,
            "q8_0",
            "--mix chooses among the artifacts of a run folder, and this is one artifact",
        ),
    ],
)
def test_what_is_no_artifact_is_one_sentence(run, inside, runtime, mix, words):
    with pytest.raises(InputError) as caught:
        find_artifact(run / inside, runtime, mix)
    assert words in str(caught.value)
