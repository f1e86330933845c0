"""A Hugging Face folder's config.json: the model's shape, or why it can't be run. No torch."""

from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.facts import ModelShape
from edgedistill.families import FAMILIES, Family
from edgedistill.models import rope
from edgedistill.models.vocabulary import read_json
from edgedistill.reading import shown

SUPPORTED = tuple(FAMILIES)
ACTIVATIONS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}  # ours -> transformers'
# Options of a config that change what a model computes, and that none of the supported families' usual models has on.
ODD_OPTIONS = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_bidirectional_attention",
    "num_local_experts",
    "num_experts",
    "clip_qkv",
)
MAX_LAYERS = 512  # llama.cpp's own limit (LLAMA_MAX_LAYERS)
GEMMA_PATTERN = 6  # every sixth layer sees all keys
GEMMA_27B_LAYERS = 62


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in a folder, from config.json alone.

    Raises:
        InputError: no config.json, or a model that we can't run: the message says what was found and what is supported.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: has no config.json; {_instead(folder)}a model folder holds config.json, *.safetensors and "
            "tokenizer.json"
        )
    return shape_of(path, read_json(path))


def _instead(folder: Path) -> str:
    """What a folder without a config.json is, where that can be told."""
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter: merge it into its model with peft's merge_and_unload, and name that folder; "
    inside = [*folder.glob("checkpoint-*/config.json"), *folder.glob("snapshots/*/config.json")]
    if inside:
        newest = max(inside, key=lambda path: path.stat().st_mtime)
        return f"it holds models, such as {newest.parent}: name one of them; "
    return ""


def shape_of(path: Path, config: dict[str, Any]) -> ModelShape:
    """The shape that the contents of a config.json tell. `path` names it in errors.

    Raises:
        InputError: as `read_shape`.
    """
    family = _family(path, config)
    _refuse_odd(path, config, family)

    def size(key: str, default: Any = None) -> int:
        value = config.get(key)
        value = family.defaults.get(key, default) if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise InputError(f"{path}: {key} is {shown(value)}; it must be a whole number above 0")
        return value

    def number(key: str, default: float) -> float:
        value = config.get(key, family.defaults.get(key, default))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-9 < value < 1e6:
            raise InputError(f"{path}: {key} is {shown(value)}; it must be a number above 0")
        return float(value)

    if size("num_hidden_layers") > MAX_LAYERS:
        raise InputError(
            f"{path}: num_hidden_layers is {size('num_hidden_layers')}; llama.cpp runs at most {MAX_LAYERS}"
        )
    layers, width, heads = size("num_hidden_layers"), size("hidden_size"), size("num_attention_heads")
    head_dim, context = size("head_dim", width // heads), size("max_position_embeddings")
    eps = number("rms_norm_eps", 1e-6)
    if eps >= 1:
        raise InputError(f"{path}: rms_norm_eps is {eps!r}; it must be a small number above 0")
    rotary = rope.from_config(path, config, family, head_dim)
    window, windowed = _windows(path, config, family, layers)
    if window is not None and not family.windows:
        # Up to its length a sliding window hides nothing, and llama.cpp hides nothing at any length.
        context, window, windowed = min(context, window), None, None
    scales: dict[str, Any] = {}
    if family.name == "granite":
        scales = {
            "embedding_scale": number("embedding_multiplier", 1),
            "residual_scale": number("residual_multiplier", 1),
            "attention_scale": number("attention_multiplier", 1),
            "logit_scale": 1 / number("logits_scaling", 1),
        }
    elif family.name == "gemma3_text":
        scalar = number("query_pre_attn_scalar", head_dim)
        scales = {"embedding_scale": width**0.5, "attention_scale": None if scalar == head_dim else scalar**-0.5}
    attention_bias, mlp_bias = (
        option in family.bias_options and bool(config.get(option)) for option in ("attention_bias", "mlp_bias")
    )
    shape = ModelShape(
        family=family.name,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_dim=head_dim,
        ffn=size("intermediate_size"),
        vocab=size("vocab_size"),
        context=min(context, rotary.most_tokens or context),
        tied=bool(config.get("tie_word_embeddings", family.defaults.get("tie_word_embeddings", False))),
        rope_theta=rotary.theta,
        norm_eps=eps,
        rope_scaling=rotary.scaling,
        qkv_bias=family.qkv_bias or attention_bias,
        output_bias=attention_bias,
        mlp_bias=mlp_bias,
        rotary_dim=rotary.rotary_dim,
        window=window,
        windowed=windowed,
        local_rope_theta=rotary.local_theta,
        no_rope=_no_rope(path, config, family, layers),
        activation=family.activation,
        **scales,
    )
    check_shape(path, shape)
    return shape


def _family(path: Path, config: dict[str, Any]) -> Family:
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        hint = ""
        if name == "gemma3":
            hint = " (gemma3 reads images too; take a model of text alone, which is gemma3_text)"
        raise InputError(
            f"{path}: model_type is {shown(name)}{hint}; supported architectures are {', '.join(SUPPORTED)}"
        )
    return FAMILIES[name]


def _refuse_odd(path: Path, config: dict[str, Any], family: Family) -> None:
    """Raise InputError for what a config turns on that we or llama.cpp would not compute."""
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise InputError(f"{path}: its weights are quantized by {shown(method)}; take the model's float version")
    for option in ("attention_bias", "mlp_bias"):
        if config.get(option) and option not in family.bias_options:
            raise InputError(
                f"{path}: {option} is on; only {family.name} models without it are supported, llama.cpp has "
                "no such biases"
            )
    for option in ODD_OPTIONS:
        if config.get(option):
            raise InputError(
                f"{path}: {option} is {shown(config[option])}; only {family.name} models without it are supported"
            )
    expected = ACTIVATIONS[family.activation]
    activation = config.get(family.activation_key) or expected
    if activation != expected:
        raise InputError(f"{path}: {family.activation_key} is {shown(activation)}; it must be {expected!r}")


def _windows(
    path: Path, config: dict[str, Any], family: Family, layers: int
) -> tuple[int | None, tuple[bool, ...] | None]:
    """(window in tokens, which layers have it), as transformers reads them; (None, None) where no layer has one."""
    window = config.get("sliding_window", family.defaults.get("sliding_window"))
    switched_off = family.window_layers == "switched" and not config.get("use_sliding_window")
    if family.window_layers is None or window is None or switched_off:
        return None, None
    if isinstance(window, bool) or not isinstance(window, int) or not 0 < window < 1 << 31:
        raise InputError(f"{path}: sliding_window is {shown(window)}; it must be a whole number above 0, or null")
    kinds = config.get("layer_types") if family.window_layers != "all" else None
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers or not set(map(str, kinds)) <= {rope.FULL, rope.SLIDING}:
            raise InputError(
                f"{path}: layer_types must be {layers} times {rope.FULL!r} or {rope.SLIDING!r}, one for each layer"
            )
        windowed = tuple(kind == rope.SLIDING for kind in kinds)
    elif family.window_layers == "pattern":
        every = config.get("sliding_window_pattern", GEMMA_PATTERN)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(f"{path}: sliding_window_pattern is {shown(every)}; it must be a whole number above 0")
        windowed = tuple((index + 1) % every != 0 for index in range(layers))
    elif family.no_rope_every is not None:
        windowed = tuple((index + 1) % family.no_rope_every == 0 for index in range(layers))
    elif family.window_layers == "switched":
        first = config.get("max_window_layers", family.defaults["max_window_layers"])
        if isinstance(first, bool) or not isinstance(first, int):
            raise InputError(f"{path}: max_window_layers is {shown(first)}; it must be a whole number")
        windowed = tuple(index >= first for index in range(layers))
    else:
        windowed = (True,) * layers
    return (window, windowed) if any(windowed) else (None, None)


def _no_rope(path: Path, config: dict[str, Any], family: Family, layers: int) -> tuple[bool, ...] | None:
    """Which layers have no rotary embedding: smollm3's, which llama.cpp knows by their place alone."""
    if (every := family.no_rope_every) is None:
        return None
    expected = tuple((index + 1) % every == 0 for index in range(layers))
    rotated = config.get("no_rope_layers")  # 1 where there is one, whatever its name says
    if rotated is None:
        usual = config.get("no_rope_layer_interval", every) == every
    else:
        usual = isinstance(rotated, list) and tuple(not r for r in rotated[:layers]) == expected
    if not usual:
        raise InputError(
            f"{path}: no_rope_layers leaves the rotary embedding out of other layers than every {every}th; "
            f"llama.cpp leaves it out of every {every}th layer of a {family.name} model"
        )
    return expected


def check_shape(where: object, shape: ModelShape) -> None:
    """Raise InputError where the parts of a shape don't go together, or llama.cpp couldn't run it."""
    family = FAMILIES[shape.family]
    rotary = shape.rotary_dim or shape.head_dim
    if shape.heads % shape.kv_heads or shape.head_dim % 2 or rotary % 2:
        raise InputError(
            f"{where}: {shape.heads} heads of {shape.head_dim} over {shape.kv_heads} key heads; heads must be a "
            "multiple of key heads, and a head's size, or the part of it that is rotated, even"
        )
    if family.square and shape.heads * shape.head_dim != shape.width:
        raise InputError(
            f"{where}: {shape.heads} heads of {shape.head_dim} aren't the width {shape.width}; llama.cpp runs "
            f"{shape.family} models only where they are"
        )
    if family.untied and shape.tied:
        raise InputError(
            f"{where}: tie_word_embeddings is on; llama.cpp runs {shape.family} models only with an output "
            "matrix of its own"
        )
    if shape.family == "gemma3_text":
        # llama.cpp takes this from the number of layers: only Gemma 3 27B has 62.
        fixed = gemma_attention_scale(shape.layers, shape.width, shape.heads, shape.head_dim)
        if shape.attention_scale != fixed:
            expected = shape.head_dim if fixed is None else shape.width // shape.heads
            raise InputError(
                f"{where}: query_pre_attn_scalar must be {expected}, as llama.cpp has it for a gemma3 of "
                f"{shape.layers} layers"
            )


def gemma_attention_scale(layers: int, width: int, heads: int, head_dim: int) -> float | None:
    """What llama.cpp multiplies gemma3's attention scores by, None for head_dim ** -0.5."""
    if layers != GEMMA_27B_LAYERS or width // heads == head_dim:
        return None
    return float(width // heads) ** -0.5


def license_of(folder: Path) -> str | None:
    """The licence that the folder's README.md states in its front matter, as Hugging Face model cards do."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if line.startswith("license:"):
            return line.removeprefix("license:").strip().strip("'\"")[:100] or None
    return None
