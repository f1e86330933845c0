"""What is read of a config.json of each family, against transformers' own reading; what is refused; which depths can be
cut.
"""

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgedistill.errors import InputError
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.facts import ModelShape, check_depth
from edgedistill.families import FAMILIES, family_of
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_model import gguf_shape, stored_shape
from edgedistill.models.hf_folder import read_shape, shape_of
from edgedistill.models.load import load_model
from edgedistill.models.students.depth import block_influence, choose_layers, layer_kinds
from tests.models.test_facts import edited
from tests.tiny import VARIANTS, make_tiny

# What every config.json must say; the rest may be left out.
LEAST = {
    "vocab_size": 96,
    "hidden_size": 128,
    "intermediate_size": 80,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
UNTIED = {"tie_word_embeddings": False}


def shape_from(family: str, **values: object) -> ModelShape:
    return shape_of(Path("config.json"), {"model_type": family, **LEAST, **values})


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_config_leaves_out_is_transformers_default(family):
    config = AutoConfig.for_model(family, **LEAST)
    if family in ("qwen2", "qwen3"):  # 32 key heads for 4 heads: no real model's
        with pytest.raises(InputError, match="4 heads of .* over 32 key heads"):
            shape_from(family)
    values = {"num_key_value_heads": 4} if family in ("qwen2", "qwen3", "mistral") else {}
    values |= {"query_pre_attn_scalar": 256} if family == "gemma3_text" else {}
    config = AutoConfig.for_model(family, **LEAST, **values)
    shape = shape_from(family, **values)
    assert shape.kv_heads == config.num_key_value_heads
    assert shape.head_dim == getattr(config, "head_dim", 32)
    assert shape.context == (4096 if family == "mistral" else config.max_position_embeddings)  # its window
    assert (shape.tied, shape.norm_eps) == (config.tie_word_embeddings, config.rms_norm_eps)
    rotary = config.rope_parameters
    full = rotary["full_attention"] if family == "gemma3_text" else rotary
    assert (shape.rope_theta, shape.rope_scaling) == (full["rope_theta"], None)
    assert shape.local_rope_theta == (rotary["sliding_attention"]["rope_theta"] if family == "gemma3_text" else None)
    if family == "gemma3_text":
        assert shape.window == config.sliding_window
        assert shape.windowed == tuple(kind == "sliding_attention" for kind in config.layer_types)
    else:
        assert shape.window is None
    if family == "smollm3":
        assert shape.no_rope == tuple(not rotated for rotated in config.no_rope_layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_are_those_of_transformers_state_dict(family):
    changes = VARIANTS[family]
    values = {**LEAST, "num_key_value_heads": 2, **changes, "hidden_size": 64}
    if family == "olmo2":
        values |= UNTIED
    config = AutoConfig.for_model(family, **{key: value for key, value in values.items() if value is not None})
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(config).state_dict()
    shape = shape_of(Path("config.json"), config.to_dict())
    expected = {
        name: tuple(value.shape) for name, value in state.items() if not (shape.tied and name == "lm_head.weight")
    }
    tensors = list(shape.tensors())
    assert {tensor.name: tensor.dimensions for tensor in tensors} == expected
    assert len(tensors) == len(expected)
    assert all(tensor.flat == (tensor.kind in ("norm", "bias")) == (len(tensor.dimensions) == 1) for tensor in tensors)
    assert {tensor.kind for tensor in tensors if tensor.name.endswith("bias")} <= {"bias"}
    assert shape.parameters == sum(value.numel() for name, value in state.items() if name in expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_model_is_transformers(family, tmp_path):
    folder = make_tiny(family, tmp_path / "model")
    ids = torch.arange(3, 43).view(1, 40)
    ours, theirs = load_model(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(ours) is type(theirs)
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
        half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        assert torch.equal(load_model(folder, torch.bfloat16)(ids).logits, half(ids).logits)


REFUSED = [
    ("qwen3", {"attention_bias": True}, "attention_bias is on; only qwen3 models without it are supported"),
    ("olmo2", {"attention_bias": True}, "attention_bias is on; only olmo2 models"),
    ("smollm3", {"mlp_bias": True}, "mlp_bias is on; only smollm3 models"),
    (
        "gemma3_text",
        {"final_logit_softcapping": 30.0},
        "final_logit_softcapping is 30.0; only gemma3_text models without it",
    ),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    ("gemma3_text", {"hidden_activation": "silu"}, "hidden_activation is 'silu'; it must be 'gelu_pytorch_tanh'"),
    (
        "gemma3_text",
        {"head_dim": 32, "query_pre_attn_scalar": 24},
        "query_pre_attn_scalar must be 32, as llama.cpp has it",
    ),
    (
        "gemma3_text",
        {"layer_types": ["full_attention"]},
        "layer_types must be 8 times 'full_attention' or 'sliding_attention'",
    ),
    ("gemma3_text", {"sliding_window": -4}, "sliding_window is -4; it must be a whole number above 0, or null"),
    ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
    (
        "gemma3_text",
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        "rope scaling 'yarn' isn't supported for gemma3_text",
    ),
    (
        "gemma3_text",
        {"rope_parameters": {"rope_theta": 1e6}},
        "gemma3_text's must have objects full_attention and sliding_attention",
    ),
    ("gemma3_text", {"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}}, "'linear' of windowed layers"),
    (
        "smollm3",
        {"no_rope_layers": [1] * 8},
        "no_rope_layers leaves the rotary embedding out of other layers than every 4th",
    ),
    ("smollm3", {"no_rope_layers": 3}, "no_rope_layers leaves"),
    ("smollm3", {"no_rope_layer_interval": 2}, "no_rope_layers leaves"),
    ("qwen2", {"head_dim": 64, "num_key_value_heads": 2}, "4 heads of 64 aren't the width 128; llama.cpp runs"),
    (
        "qwen2",
        {"num_key_value_heads": 2, "rope_scaling": {"rope_type": "llama3"}},
        "rope scaling 'llama3' isn't supported for qwen2",
    ),
    (
        "olmo2",
        {"tie_word_embeddings": True},
        "tie_word_embeddings is on; llama.cpp runs olmo2 models only with an output",
    ),
    (
        "phi3",
        {"rope_scaling": {"type": "su", "short_factor": [1.0] * 4, "long_factor": [1.0] * 4}},
        "short_factor has 4 numbers; .* 16",
    ),
    ("phi3", {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 16}}, "short_factor is None"),
    (
        "phi3",
        {"rope_scaling": {"type": "longrope", "short_factor": ["1"] * 16}},
        "short_factor is '1'; it must be a number above 0",
    ),
    ("phi3", {"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5"),
    ("phi3", {"partial_rotary_factor": 0.3}, "the part of it that is rotated, even"),
    ("granite", {"logits_scaling": 0}, "logits_scaling is 0; it must be a number above 0"),
    ("granite", {"residual_multiplier": True}, "residual_multiplier is True"),
]


@pytest.mark.parametrize(
    ("family", "values", "said"), REFUSED, ids=[f"{family} {' '.join(values)}" for family, values, _ in REFUSED]
)
def test_what_would_run_otherwise_is_refused(family, values, said):
    with pytest.raises(InputError, match=said):
        shape_from(family, **values)


def test_a_window_that_llama_cpp_does_not_know_bounds_the_context():
    qwen = {"num_key_value_heads": 2, "max_position_embeddings": 1000, "sliding_window": 300}
    assert shape_from("qwen2", **qwen).context == 1000
    assert (
        shape_from("qwen2", **qwen, use_sliding_window=True).context == 1000
    )  # max_window_layers: none of the 8 layers
    assert shape_from("qwen3", **qwen, use_sliding_window=True, max_window_layers=7).context == 300
    kinds = ["full_attention"] * 7 + ["sliding_attention"]
    assert shape_from("qwen2", **qwen, use_sliding_window=True, layer_types=kinds).context == 300
    assert shape_from("phi3", sliding_window=2047).context == 2047
    assert shape_from("phi3", sliding_window=262144).context == 4096
    assert shape_from("mistral", num_key_value_heads=2, sliding_window=None).context == 131072
    assert shape_from("smollm3", use_sliding_window=True, sliding_window=64).context == 64
    assert shape_from("llama", sliding_window=64).context == 2048  # which transformers doesn't look at either


def test_phi3s_longrope_holds_up_to_its_first_length():
    factors = {"short_factor": [1.5] * 16, "long_factor": [2] * 16}
    lengths = {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
    shape = shape_from("phi3", **lengths, rope_scaling={"type": "su", **factors})
    rotary = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    config = AutoConfig.for_model("phi3", **LEAST, **lengths, rope_parameters=rotary)
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    _, attention = ROPE_INIT_FUNCTIONS["longrope"](config, "cpu")
    assert shape.context == 4096
    assert shape.rope_scaling is not None
    assert shape.rope_scaling["attention_factor"] == pytest.approx(attention, rel=1e-12)
    assert shape_from("phi3", partial_rotary_factor=0.75).rotary_dim == 24


def test_a_stored_shape_is_a_shape_of_float32s():
    shape = replace(shape_from("granite", logits_scaling=3), attention_scale=0.1, rope_theta=10000.3)
    stored = stored_shape(shape)
    assert stored.logit_scale == 1 / 3
    assert (stored.attention_scale, stored.rope_theta) == (0.1, 10000.3)
    assert stored_shape(replace(shape, attention_scale=0.1 + 1e-12)) == stored
    assert stored_shape(shape_from("mistral", num_key_value_heads=2)).family == "llama"
    assert family_of("gpt2") is None


def test_depths_of_models_whose_layers_differ_by_place():
    gemma = shape_from("gemma3_text", num_hidden_layers=13)
    for layers in (2, 5, 7, 13):
        check_depth("recipe r", "T", gemma, layers)
        assert gemma.with_layers(layers).windowed == tuple((i + 1) % 6 != 0 for i in range(layers))
    with pytest.raises(
        InputError, match="of 12 the last of the teacher's 13 layers .* one of 2, 3, 4, 5, 7, 8, 9, 10, 11, 13"
    ):
        check_depth("recipe r", "T", gemma, 12)
    smollm = shape_from("smollm3")
    check_depth("recipe r", "T", smollm, 4)
    with pytest.raises(InputError, match="smollm3 layers differ by their place, .* student.layers must be one of 4, 8"):
        check_depth("recipe r", "T", smollm, 6)
    with pytest.raises(InputError, match="recipe r: the student would have 9 layers; T, which is cut, has 8"):
        check_depth("recipe r", "T", smollm, 9)
    big = shape_from("gemma3_text", num_hidden_layers=62, head_dim=64, query_pre_attn_scalar=32)
    assert big.attention_scale == 32**-0.5
    check_depth("recipe r", "T", big, 62)
    with pytest.raises(InputError, match="knows this gemma3's attention scale by its 62 layers alone"):
        check_depth("recipe r", "T", big, 61)


def test_chosen_layers_come_to_places_of_their_kind():
    rng = random.Random(0)
    kinds = [(index + 1) % 4 == 0 for index in range(12)]
    for keep in (4, 8, 12):
        influence = [rng.random() for _ in kinds]
        inner = [c for c in itertools.combinations(range(1, 11), keep - 2)]
        choices = [[0, *c, 11] for c in inner if [kinds[i] for i in (0, *c, 11)] == kinds[:keep]]
        best = max(choices, key=lambda choice: sum(influence[i] for i in choice))
        assert choose_layers(influence, keep, kinds) == best
    with pytest.raises(ValueError, match="12 layers can't be cut to 6: its last layer is of another kind than layer 5"):
        choose_layers([0.5] * 12, 6, kinds)
    assert choose_layers([0.5, 0.1, 0.2, 0.5], 3, ["a"] * 4) == [0, 2, 3]


@pytest.mark.parametrize("family", ["gemma3_text", "smollm3", "llama"])
def test_kinds_of_layers_are_those_of_the_shape(family, tmp_path):
    folder = make_tiny(family, tmp_path / "model")
    kinds, shape = layer_kinds(load_model(folder)), read_shape(folder)
    of_shape = [shape.layer_kind(index) for index in range(shape.layers)]
    pairs = set(zip(kinds, of_shape, strict=True))
    assert len(pairs) == len(set(kinds)) == len(set(of_shape)) == (1 if family == "llama" else 2)


def test_a_config_may_be_of_any_age(tmp_path):
    scaling = {"factor": 8.0, "rope_type": "linear"}
    old = {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "sliding_window_pattern": 4, "rope_scaling": scaling}
    new = {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
        "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2,
    }
    assert shape_from("gemma3_text", **old) == shape_from("gemma3_text", **new)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gemma3_text", **LEAST, **old}))
    config = AutoConfig.from_pretrained(tmp_path)
    assert shape_of(path, config.to_dict()) == shape_from("gemma3_text", **old)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A float GGUF file of each family."""
    root, found = tmp_path_factory.mktemp("gguf"), {}
    for family in FAMILIES:
        folder = make_tiny(family, root / family)
        shape, state = read_shape(folder), load_model(folder).state_dict()
        checkpoint = float_checkpoint({tensor.name: state[tensor.name] for tensor in shape.tensors()}, "f32")
        found[family] = write_gguf(checkpoint, folder, shape, root / f"{family}.gguf", {})
        assert gguf_shape(read_header(found[family])) == stored_shape(shape)
    return found


FILE_ERRORS = [
    (
        "gemma3_text",
        {"gemma3__final_logit_softcapping": 30.0},
        "gemma3.final_logit_softcapping is set, which no plain gemma3_text has",
    ),
    (
        "gemma3_text",
        {"gemma3__attention__sliding_window_pattern": [1, 0]},
        "sliding_window_pattern has 2 elements for 7 layers",
    ),
    (
        "gemma3_text",
        {"gemma3__attention__sliding_window_pattern": 0},
        "sliding_window_pattern is 0; it must be a whole number above 0",
    ),
    ("gemma3_text", {"gemma3__rope__scaling__type": "yarn"}, "rope scaling 'yarn' isn't supported for gemma3_text"),
    (
        "gemma3_text",
        {"gemma3__rope__freq_base_swa": -1.0},
        "gemma3.rope.freq_base_swa is -1.0; it must be a number above 0",
    ),
    ("gemma3_text", {"gemma3__block_count": 8}, "tensor blk.7.attn_norm.weight is missing"),
    (
        "phi3",
        {"phi3__rope__scaling__original_context_length": 0},
        "original_context_length is 0 and attn_factor .*; they must be above 0",
    ),
    ("phi3", {"phi3__rope__dimension_count": 14}, r"rope_factors_short.weight is f32 \[6\]; it must be f32 \[7\]"),
    ("phi3", {"phi3__rope__dimension_count": 18}, "phi3.rope.dimension_count is 18 where heads have 16"),
    ("qwen2", {"qwen2__rope__scaling__attn_factor": 2.0}, "qwen2.rope.scaling.attn_factor isn't yarn's usual one"),
    (
        "qwen2",
        {"qwen2__attention__head_count": 8, "qwen2__attention__head_count_kv": 4},
        "8 heads of 16 aren't the width 64; llama.cpp",
    ),
    (
        "qwen3",
        {"qwen3__attention__sliding_window": 5},
        "qwen3.attention.sliding_window is set, which no plain qwen3 has",
    ),
    (
        "olmo2",
        {"olmo2__attention__sliding_window": 64},
        "olmo2.attention.sliding_window is set, which no plain olmo2 has",
    ),
    ("granite", {"granite__logit_scale": 0.0}, "granite.logit_scale is 0.0; it must be a number above 0"),
    (
        "granite",
        {"granite__expert_count": 4},
        "a mixture of experts isn't supported; supported are plain granite models",
    ),
]


@pytest.mark.parametrize(
    ("family", "changes", "said"), FILE_ERRORS, ids=[f"{family} {next(iter(c))}" for family, c, _ in FILE_ERRORS]
)
def test_a_file_that_would_run_otherwise_is_refused(family, changes, said, files, tmp_path):
    path = edited(
        files[family], tmp_path / "edited.gguf", general__architecture=FAMILIES[family].architecture, **changes
    )
    with pytest.raises(InputError, match=said):
        gguf_shape(read_header(path))


def test_what_a_converter_leaves_out_is_its_default(files, tmp_path):
    # llama.cpp's converter writes no head sizes for qwen2, no kind of scaling for phi3, gemma3's pattern never.
    for family, left_out in (
        ("qwen2", ["attention.key_length", "attention.value_length", "rope.dimension_count", "vocab_size"]),
        ("phi3", ["rope.scaling.type", "attention.key_length", "attention.value_length", "attention.sliding_window"]),
        ("olmo2", ["attention.key_length", "attention.value_length"]),
    ):
        changes = {f"{family}.{key}".replace(".", "__"): None for key in left_out}
        path = edited(files[family], tmp_path / f"{family}.gguf", general__architecture=family, **changes)
        assert gguf_shape(read_header(path)) == gguf_shape(read_header(files[family]))
    longer = edited(files["phi3"], tmp_path / "long.gguf", general__architecture="phi3", phi3__context_length=2048)
    assert gguf_shape(read_header(longer)).context == 512
    windowed = edited(
        files["phi3"], tmp_path / "window.gguf", general__architecture="phi3", phi3__attention__sliding_window=100
    )
    assert gguf_shape(read_header(windowed)).context == 100


@pytest.mark.parametrize("family", FAMILIES)
def test_influence_is_measured_of_every_family(family, tmp_path):
    model = load_model(make_tiny(family, tmp_path / "model"))
    layer = model.model.layers[1]
    for name, parameter in layer.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias")):
            parameter.data.zero_()
    influence = block_influence(model, [torch.arange(3, 43).view(1, 40)])
    assert len(influence) == model.config.num_hidden_layers
    assert influence[1] == pytest.approx(0, abs=1e-6)
    assert min(influence[:1] + influence[2:]) > 1e-3
