"""The ONNX export in onnxruntime against transformers on the decoded weights: logits, cache, padding, greedy text,
every weight.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from edgedistill.export.compare import checkpoint_hash
from edgedistill.export.onnx.build import write_onnx
from edgedistill.export.onnx.check import compare_onnx, verify_onnx
from edgedistill.export.onnx.read import read_onnx
from edgedistill.mixes import assign_formats
from edgedistill.models.hf_folder import read_shape
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.fit import fit_ggml
from tests.export.onnx_session import Session
from tests.tiny import make_tiny_llama

TEXT = (
    "She said: 'I can't believe it's already 10:45!' and ran to the café. What is the capital of France? "
    "Eleven sturdy walruses juggled 1234567890 marbles by moonlight, whistling."
)
METADATA = {"name": "tiny", "license": "apache-2.0", "teacher": "none", "seed": 7}


def rounded(folder, mix):
    """The folder's weights on the grids of a mix, and the model's shape."""
    shape = read_shape(folder)
    weights = load_file(folder / "model.safetensors")
    formats = assign_formats(shape, mix)
    tensors = {n: fit_ggml(weights[n], f.name) if f.quantized else weights[n].float() for n, f in formats.items()}
    return GridCheckpoint(mix, tensors), shape


def reference(folder, checkpoint):
    """transformers with the checkpoint's decoded weights."""
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).eval()
    state = {name: checkpoint.decode(name) for name in checkpoint.tensors}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="module")
def untied_llama(tmp_path_factory):
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "untied", tied=False, layers=2, seed=3)


@pytest.fixture(scope="module", params=["q4_0 tied", "q8_0 tied", "q4_0 untied"])
def case(request, tiny_llama, untied_llama, tmp_path_factory):
    """(source folder, checkpoint, shape, export folder at accuracy level 0)."""
    mix, kind = request.param.split()
    source = tiny_llama if kind == "tied" else untied_llama
    checkpoint, shape = rounded(source, mix)
    out = tmp_path_factory.mktemp("onnx") / "out"
    assert write_onnx(checkpoint, source, shape, out, METADATA, accuracy_level=0) == out
    return source, checkpoint, shape, out


@pytest.fixture(scope="module")
def tokens(tiny_llama):
    """Ids [1, 40] of the text, as both tiny models' tokenizer gives them."""
    ids = np.array([AutoTokenizer.from_pretrained(tiny_llama)(TEXT)["input_ids"]], np.int64)
    assert ids.shape[1] >= 40
    return ids[:, :40]


def test_logits_are_those_of_transformers(case, tokens):
    source, checkpoint, _, out = case
    with torch.inference_mode():
        expected = reference(source, checkpoint)(torch.from_numpy(tokens)).logits.numpy()
    found, _ = Session(out)(tokens)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)


def test_token_by_token_with_the_cache_agrees_with_the_whole_prompt(case, tokens):
    session = Session(case[3])
    whole, cache = session(tokens)
    past, rows = None, []
    for index in range(tokens.shape[1]):
        logits, past = session(tokens[:, index : index + 1], past=past)
        rows.append(logits[:, 0])
    np.testing.assert_allclose(np.stack(rows, 1), whole, atol=1e-3)
    np.testing.assert_allclose(past[0], cache[0], atol=1e-4)
    first, past = session(tokens[:, :17])
    rest, _ = session(tokens[:, 17:], past=past)  # a second part of a prompt
    np.testing.assert_allclose(np.concatenate([first, rest], 1), whole, atol=1e-3)


def test_greedy_text_is_that_of_transformers(case, tokens):
    source, checkpoint, _, out = case
    model = reference(source, checkpoint)
    prompt = torch.from_numpy(tokens[:, :12])
    with torch.inference_mode():
        expected = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False, eos_token_id=None
        )
    np.testing.assert_array_equal(Session(out).greedy(tokens[:, :12]), expected[:, 12:].numpy())


def test_a_batch_padded_on_the_left_gives_what_each_row_gives_alone(case, tokens):
    session = Session(case[3])
    short, long = tokens[:, :9], tokens[:, 9:25]
    ids = np.concatenate([np.pad(short, ((0, 0), (7, 0)), constant_values=2), long])
    mask = np.ones_like(ids)
    mask[0, :7] = 0
    logits, _ = session(ids, mask)
    np.testing.assert_allclose(logits[0, 7:], session(short)[0][0], atol=1e-3)
    np.testing.assert_allclose(logits[1], session(long)[0][0], atol=1e-3)
    together = session.greedy(ids, mask, count=12)
    np.testing.assert_array_equal(together[0], session.greedy(short, count=12)[0])
    np.testing.assert_array_equal(together[1], session.greedy(long, count=12)[0])


def test_padding_on_the_right_leaves_a_prompts_logits_alone(case, tokens):
    session = Session(case[3])
    ids = np.pad(tokens[:, :9], ((0, 0), (0, 5)), constant_values=2)
    mask = np.ones_like(ids)
    mask[0, 9:] = 0
    np.testing.assert_allclose(session(ids, mask)[0][0, :9], session(tokens[:, :9])[0][0], atol=1e-3)


def test_int8_activations_of_level_4_stay_near(tiny_llama, tokens, tmp_path):
    checkpoint, shape = rounded(tiny_llama, "q4_0")
    logits = {}
    for level in (0, 4):
        out = write_onnx(checkpoint, tiny_llama, shape, tmp_path / str(level), METADATA, accuracy_level=level)
        logits[level] = torch.from_numpy(Session(out)(tokens)[0]).log_softmax(-1)
    kl = (logits[0].exp() * (logits[0] - logits[4])).sum(-1).mean()
    assert 0 < kl < 0.05


def test_the_export_reads_back_bit_for_bit(case):
    source, checkpoint, shape, out = case
    read = dict(read_onnx(out))
    assert set(read) == set(checkpoint.tensors)
    for name, values in read.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, checkpoint.decode(name).numpy())
    compared = compare_onnx(checkpoint, out)
    assert compared.equal
    assert compared.sha256 == checkpoint_hash(checkpoint) == verify_onnx(checkpoint, source, shape, out).sha256


def test_inputs_outputs_and_metadata(case):
    _, checkpoint, shape, out = case
    session = Session(out).session
    cache = [f"{index}.{part}" for index in range(shape.layers) for part in ("key", "value")]
    assert [i.name for i in session.get_inputs()] == [
        "input_ids",
        "attention_mask",
        *(f"past_key_values.{c}" for c in cache),
    ]
    assert [o.name for o in session.get_outputs()] == ["logits", *(f"present.{c}" for c in cache)]
    assert session.get_inputs()[2].shape == ["batch_size", 2, "past_sequence_length", 16]
    properties = session.get_modelmeta().custom_metadata_map
    assert properties | METADATA | {"seed": "7"} == properties
    assert properties["edgedistill.mix"] == checkpoint.mix


def test_companions(case):
    source, checkpoint, shape, out = case
    model = "model_q4.onnx" if checkpoint.mix == "q4_0" else "model_quantized.onnx"
    names = {
        "config.json",
        "generation_config.json",
        "genai_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == names | {f"onnx/{model}"}
    template = (source / "chat_template.jinja").read_text()
    assert (
        json.loads((out / "tokenizer_config.json").read_text())["chat_template"]
        == template
        == (out / "chat_template.jinja").read_text()
    )
    chat = [{"role": "user", "content": "Hello"}]
    ours, theirs = (AutoTokenizer.from_pretrained(f).apply_chat_template(chat, tokenize=False) for f in (out, source))
    assert ours == theirs
    # transformers 4, which optimum needs, doesn't know the class by the name that 5 writes.
    classes = [
        json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] for folder in (source, out)
    ]
    assert classes == ["TokenizersBackend", "PreTrainedTokenizerFast"]
    assert read_shape(out) == shape
    assert json.loads((out / "genai_config.json").read_text())["model"]["decoder"]["filename"] == f"onnx/{model}"


def test_a_tied_table_is_stored_once(tiny_llama, tmp_path):
    checkpoint, shape = rounded(tiny_llama, "q8_0")
    out = write_onnx(checkpoint, tiny_llama, shape, tmp_path / "out", METADATA)
    weights = sum(t.packed.numel() if hasattr(t, "packed") else 4 * t.numel() for t in checkpoint.tensors.values())
    angles = 2 * 4 * shape.context * shape.head_dim // 2
    nodes = 24_000  # names, attributes, inputs and outputs of 4 layers
    size = (out / "onnx" / "model_quantized.onnx").stat().st_size
    assert weights + angles < size < weights + angles + nodes
    assert checkpoint.tensors["model.embed_tokens.weight"].packed.numel() > nodes / 2  # a second copy would show


def test_the_same_input_gives_the_same_bytes(tiny_llama, tmp_path):
    checkpoint, shape = rounded(tiny_llama, "q4_0")
    backwards = GridCheckpoint("q4_0", dict(reversed(checkpoint.tensors.items())))
    first = write_onnx(checkpoint, tiny_llama, shape, tmp_path / "first", METADATA)
    second = write_onnx(backwards, tiny_llama, shape, tmp_path / "second", dict(reversed(METADATA.items())))
    for path in sorted(p for p in first.rglob("*") if p.is_file()):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path


def test_llama3_rope_scaling(tmp_path, tokens):
    source = make_tiny_llama(tmp_path / "source", layers=2, context=512)
    config = json.loads((source / "config.json").read_text())
    config["rope_parameters"] = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    (source / "config.json").write_text(json.dumps(config))
    checkpoint, shape = rounded(source, "q8_0")
    out = write_onnx(checkpoint, source, shape, tmp_path / "out", METADATA, accuracy_level=0)
    assert verify_onnx(checkpoint, source, shape, out).equal
    long = np.concatenate([tokens] * 3, 1)
    with torch.inference_mode():
        expected = reference(source, checkpoint)(torch.from_numpy(long)).logits.numpy()
    np.testing.assert_allclose(Session(out)(long)[0], expected, atol=1e-3)


def test_weights_beside_the_model_when_it_is_large(tiny_llama, tokens, tmp_path, monkeypatch):
    checkpoint, shape = rounded(tiny_llama, "q4_0")
    shape = replace(shape, context=250)  # 8000 bytes of angles: the next tensor must not start inside their page
    inside = write_onnx(checkpoint, tiny_llama, shape, tmp_path / "inside", METADATA)
    monkeypatch.setattr("edgedistill.export.onnx.build.INSIDE_LIMIT_BYTES", 0)
    out = write_onnx(checkpoint, tiny_llama, shape, tmp_path / "out", METADATA)
    np.testing.assert_array_equal(Session(out)(tokens)[0], Session(inside)(tokens)[0])
    assert verify_onnx(checkpoint, tiny_llama, shape, out).equal
    assert (out / "onnx" / "model_q4.onnx_data").stat().st_size > (out / "onnx" / "model_q4.onnx").stat().st_size
    assert json.loads((out / "config.json").read_text())["transformers.js_config"] == {
        "use_external_data_format": {"model_q4.onnx": 1}
    }


def test_an_earlier_export_and_what_a_killed_one_left_are_replaced(tiny_llama, tmp_path):
    checkpoint, shape = rounded(tiny_llama, "q8_0")
    for leftover in (".out.new", ".out.old"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "junk").touch()
    write_onnx(checkpoint, tiny_llama, shape, tmp_path / "out", METADATA)
    checkpoint, _ = rounded(tiny_llama, "q4_0")
    out = write_onnx(checkpoint, tiny_llama, shape, tmp_path / "out", METADATA)
    assert [p.name for p in (out / "onnx").iterdir()] == ["model_q4.onnx"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_context_is_cut_where_the_angles_end(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setattr("edgedistill.export.onnx.build.MAX_POSITIONS", 100)
    checkpoint, shape = rounded(tiny_llama, "q8_0")
    out = write_onnx(checkpoint, tiny_llama, replace(shape, context=1 << 20), tmp_path / "out", METADATA)
    assert json.loads((out / "config.json").read_text())["max_position_embeddings"] == 100
    assert Session(out)(np.zeros((1, 100)))[0].shape[1] == 100
