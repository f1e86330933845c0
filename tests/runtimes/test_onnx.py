"""onnxruntime in its child, against transformers on the weights that the graph holds."""

import json
import shutil

import numpy as np
import pytest

from edgedistill.errors import InputError, RunError
from edgedistill.runtimes.onnx import OnnxRuntime
from edgedistill.runtimes.speed import SpeedSettings
from tests.tiny import CORPUS

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def model(onnx_folder):
    with OnnxRuntime(onnx_folder[0], threads=1) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def rounded_logits(hf_folder, onnx_folder):
    """A function: token ids -> transformers' logits with the decoded weights."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(hf_folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(onnx_folder[1].decode(name))

    def logits(tokens):
        with torch.inference_mode():
            return network(torch.tensor([tokens])).logits[0].numpy()

    return logits


def test_logits_are_transformers(model, rounded_logits):
    tokens = model.tokenize(" ".join(CORPUS[:5]) + CORPUS[0])  # two chunks: the second reads the first's cache
    assert 130 < len(tokens) < 250
    expected = rounded_logits(tokens)
    np.testing.assert_allclose(model.logits(tokens), expected, atol=1e-3)
    assert [(start, rows.shape) for start, rows in model.logit_chunks(tokens, first=130)] == [
        (130, expected[130:].shape)
    ]


def test_greedy_tokens_are_transformers(model, rounded_logits):
    tokens = model.tokenize(CORPUS[1])
    made = model.generate(tokens, 12)
    assert made == rounded_logits(tokens + made).argmax(-1)[len(tokens) - 1 : -1].tolist()
    assert model.generate(tokens, 12, stop_ids=[made[2]]) == made[: made.index(made[2]) + 1]
    assert model.generate(tokens, 12, temperature=1.0, seed=1) == model.generate(tokens, 12, temperature=1.0, seed=1)
    assert model.generate(tokens, 12, temperature=1.0, seed=1) != model.generate(tokens, 12, temperature=1.0, seed=2)


def test_ids_and_template_are_llama_cpps(model, llama):
    for text in CORPUS[:5]:
        ids = model.tokenize(text + "<|im_end|>")
        assert ids == llama.tokenize(text + "<|im_end|>")
        assert model.detokenize(ids) == text
        assert model.tokenize("<|im_end|>", special=False) == llama.tokenize("<|im_end|>", special=False)
    assert model.apply_template(QUESTION) == llama.apply_template(QUESTION)


def test_chat_streams_what_generate_gives(model):
    _, ids = model.apply_template(QUESTION)
    made = model.generate(ids, 24, temperature=0.9, seed=5, stop_ids=None)
    text = "".join(model.chat(QUESTION, max_tokens=24, temperature=0.9, seed=5))
    assert model.detokenize(made).startswith(text)  # a character whose last byte never came stays unsaid
    assert len(text) > 10
    assert model.last_chat.tokens == len(made)


def test_info_speed_and_memory(model, onnx_folder):
    info = model.info()
    vocab = json.loads((onnx_folder[0] / "config.json").read_text())["vocab_size"]
    assert (info.runtime, info.vocab, info.bos_id, info.eos_id, info.stop_ids) == ("onnxruntime", vocab, 1, 2, (2,))
    assert info.weight_bytes == (onnx_folder[0] / "onnx" / "model_quantized.onnx").stat().st_size
    assert info.version.startswith("onnxruntime 1.")
    speeds = model.speed(SpeedSettings(prefill=16, decode=4, repetitions=2))
    assert [len(test.trials) for test in (speeds.prefill, speeds.decode)] == [2, 2]
    assert 0 < info.rss_bytes <= model.peak_rss_bytes()


def test_the_graph_itself_may_be_named(onnx_folder):
    with OnnxRuntime(onnx_folder[0] / "onnx" / "model_quantized.onnx", threads=1) as runtime:
        assert runtime.path == onnx_folder[0]


@pytest.fixture
def broken(onnx_folder, tmp_path):
    """A copy of the folder to break."""
    return shutil.copytree(onnx_folder[0], tmp_path / "broken")


def test_truncated_graph_is_one_sentence(broken):
    graph = broken / "onnx" / "model_quantized.onnx"
    graph.write_bytes(graph.read_bytes()[:20000])
    with pytest.raises(RunError) as caught:
        OnnxRuntime(broken, threads=1)
    assert str(caught.value).startswith("broken: onnxruntime can't load model_quantized.onnx: ")
    assert "\n" not in str(caught.value)


def test_a_graph_that_is_no_decoder_is_named(broken):
    import onnx
    from onnx import TensorProto, helper

    ids = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 4])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph([helper.make_node("Relu", ["pixels"], ["logits"])], "g", [ids], [out])
    path = broken / "onnx" / "model_quantized.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    with pytest.raises(
        InputError, match=r"model_quantized.onnx has input 'pixels'; it must take input_ids, attention_mask, past_key"
    ):
        OnnxRuntime(broken, threads=1)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda folder: (folder / "config.json").unlink(),
            "broken: there is no config.json; the folder must hold config",
        ),
        (
            lambda folder: (folder / "tokenizer.json").unlink(),
            "broken: there is no tokenizer.json; the folder must hold",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "broken: tokenizer.json is no tokenizer: "),
        (
            lambda folder: (folder / "config.json").write_text("[]"),
            "broken: config.json holds a JSON list; it must be an object",
        ),
        (
            lambda folder: shutil.rmtree(folder / "onnx"),
            "broken: there is no onnx/*.onnx in it; name a folder with config.json",
        ),
        (
            lambda folder: (folder / "onnx" / "b.onnx").write_text(""),
            "onnx/ holds b.onnx, model_quantized.onnx; name one of them",
        ),
    ],
)
def test_incomplete_folder_is_one_sentence(broken, spoil, words):
    spoil(broken)
    with pytest.raises(InputError) as caught:
        OnnxRuntime(broken, threads=1)
    assert words in str(caught.value)


def test_no_template_is_one_sentence(broken):
    (broken / "chat_template.jinja").unlink()
    settings = json.loads((broken / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (broken / "tokenizer_config.json").write_text(json.dumps(settings))
    with OnnxRuntime(broken, threads=1) as runtime, pytest.raises(InputError, match="broken: it has no chat template"):
        list(runtime.chat(QUESTION))
