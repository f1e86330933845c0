"""The readers of foreign files as functions of bytes, and small valid files to begin with: what is fuzzed.

A reader is right where it takes the bytes or refuses them in a sentence (an EdgeDistillError; a template's renderer
answers with one). Anything else that it raises is wrong, and so are more time and memory than it needs.
"""

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from edgedistill.errors import EdgeDistillError
from tests.faults.mutations import change_node

CONVERSATION = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello.", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
    {"role": "user", "content": "Bye"},
]
ARGUMENTS = {
    "messages": CONVERSATION,
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "tools": None,
}
STRING, ARRAY, FLOAT, INT, WORD, TRUTH = 8, 9, 6, 5, 4, 7  # GGUF's types of values


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        seeds: valid inputs.
        read: reads such bytes, which it may write into a folder of its own; raises what is wrong with it.
        bounded: whether the product runs it in a process with a deadline and little memory, so that what takes too
            long or too much ends there.
        change: changes the structure that the bytes hold, where chance alone seldom leaves one; raises ValueError where
            they hold none.
    """

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], None]
    bounded: bool = False
    change: Callable[[bytes, random.Random], bytes] | None = None


def read_gguf(content: bytes, folder: Path) -> None:
    """Header, shape and tokenizer of a GGUF file, and the tokenizer.json that is made of it."""
    from edgedistill.models.gguf_file import check_header, read_header
    from edgedistill.models.gguf_model import gguf_shape
    from edgedistill.models.gguf_tokenizer import from_gguf
    from edgedistill.models.tokenizer import tokenizer_json

    path = folder / "m.gguf"
    path.write_bytes(content)
    for read in (check_header, lambda path: gguf_shape(read_header(path))):
        _refusing(lambda read=read: read(path))
    _refusing(lambda: json.dumps(tokenizer_json(path, from_gguf(read_header(path)))))


def read_safetensors(content: bytes, folder: Path) -> None:
    """The header of a safetensors file."""
    from edgedistill.models.hf_weights import stored_tensors

    (folder / "model.safetensors").write_bytes(content)
    _refusing(lambda: stored_tensors(folder))


def read_yaml(content: bytes, folder: Path) -> None:
    """A recipe, and a target."""
    from edgedistill.config import load_recipe, load_target

    path = folder / "file.yaml"
    path.write_bytes(content)
    _refusing(lambda: json.dumps(load_recipe(path).to_dict()))
    _refusing(lambda: json.dumps(load_target(path).to_dict()))


def read_template(content: bytes, folder: Path) -> None:
    """A chat template, rendered as its process does."""
    from edgedistill.templates.worker import answer, compiled

    compiled.cache_clear()
    found = answer({"template": content.decode(errors="replace"), "arguments": ARGUMENTS})
    assert set(found) in ({"text"}, {"error"})
    json.dumps(found)


def change_header(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with one node of its header changed."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(change_node(json.loads(content[8 : 8 + length]), rng)).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def change_yaml(content: bytes, rng: random.Random) -> bytes:
    """A YAML file with one node changed."""
    try:
        return yaml.safe_dump(change_node(yaml.safe_load(content), rng)).encode()
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _refusing(read: Callable[[], object]) -> None:
    try:
        read()
    except EdgeDistillError as error:
        str(error).encode()  # a sentence that can't be shown is none


def gguf_seeds() -> list[bytes]:
    """Models of one layer, without their weights' values, with a tokenizer of either kind."""
    return [_gguf(_gpt2()), _gguf(_llama())]


def _gpt2() -> list[tuple[str, bytes]]:
    tokens, merges = ["a", "b", "ab", "<s>"], ["a b"]
    return [
        ("tokenizer.ggml.model", _text("gpt2")),
        ("tokenizer.ggml.pre", _text("gpt-2")),
        ("tokenizer.ggml.tokens", _array(STRING, [_string(token) for token in tokens])),
        ("tokenizer.ggml.token_type", _array(INT, [struct.pack("<i", kind) for kind in (1, 1, 1, 3)])),
        ("tokenizer.ggml.merges", _array(STRING, [_string(merge) for merge in merges])),
        ("tokenizer.ggml.eos_token_id", _value(WORD, struct.pack("<I", 3))),
        ("tokenizer.ggml.add_bos_token", _value(TRUTH, b"\x01")),
        ("tokenizer.chat_template", _text("{{ messages[0]['content'] }}")),
    ]


def _llama() -> list[tuple[str, bytes]]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "ab", "▁", "▁▁"]
    types = [2, 3, 3, *[6] * 256, 1, 1, 1, 1, 4]
    return [
        ("tokenizer.ggml.model", _text("llama")),
        ("tokenizer.ggml.tokens", _array(STRING, [_string(token) for token in tokens])),
        ("tokenizer.ggml.token_type", _array(INT, [struct.pack("<i", kind) for kind in types])),
        ("tokenizer.ggml.scores", _array(FLOAT, [struct.pack("<f", -place) for place in range(len(tokens))])),
        ("tokenizer.ggml.add_space_prefix", _value(TRUTH, b"\x00")),
    ]


def _gguf(tokenizer: list[tuple[str, bytes]]) -> bytes:
    sizes = {
        "context_length": 64,
        "embedding_length": 4,
        "block_count": 1,
        "feed_forward_length": 4,
        "attention.head_count": 1,
        "rope.dimension_count": 4,
        "vocab_size": 4,
    }
    values = [
        ("general.architecture", _text("llama")),
        *((f"llama.{key}", _value(WORD, struct.pack("<I", size))) for key, size in sizes.items()),
        ("llama.attention.layer_norm_rms_epsilon", _value(FLOAT, struct.pack("<f", 1e-5))),
        *tokenizer,
    ]
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors = [("token_embd.weight", (4, 4)), ("output_norm.weight", (4,))]
    tensors += [(f"blk.0.{name}.weight", (4, 4)) for name in square]
    tensors += [(f"blk.0.{name}.weight", (4,)) for name in ("attn_norm", "ffn_norm")]
    table, at = b"", 0
    for name, shape in tensors:
        table += _string(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", side) for side in shape)
        table += struct.pack("<IQ", 0, at)
        at += 64
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    header += b"".join(_string(key) + value for key, value in values) + table
    return header + bytes(-len(header) % 32) + bytes(at)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(kind: int, content: bytes) -> bytes:
    return struct.pack("<I", kind) + content


def _text(text: str) -> bytes:
    return _value(STRING, _string(text))


def _array(kind: int, elements: list[bytes]) -> bytes:
    return _value(ARRAY, struct.pack("<IQ", kind, len(elements)) + b"".join(elements))


def safetensors_seeds() -> list[bytes]:
    """One tensor, and two with metadata."""
    whole = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    more = {"__metadata__": {"format": "pt"}, "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]}}
    files = []
    for header, size in ((whole, 16), (whole | more, 24)):
        text = json.dumps(header).encode()
        files.append(struct.pack("<Q", len(text)) + text + bytes(size))
    return files


def yaml_seeds() -> list[bytes]:
    """Recipes and targets that come along, the short ones: an input of theirs takes no longer than it must."""
    root = Path(__file__).parents[2]
    files = [*sorted((root / "recipes").glob("*.yaml")), *sorted((root / "targets").glob("*.yaml"))]
    return [content for file in files if len(content := file.read_bytes()) < 1400]


def template_seeds() -> list[bytes]:
    """Templates with the parts that published ones have."""
    loop = "{% for m in messages %}<|{{ m['role'] }}|>{{ m.content | trim }}{% endfor %}"
    return [
        text.encode()
        for text in (
            loop + "{% if add_generation_prompt %}<|assistant|>{% endif %}",
            "{%- set n = namespace(a=0) -%}{% for m in messages[::-1] %}{% set n.a = n.a + 1 %}{% break %}{% endfor %}"
            "{{ n.a }}",
            "{% macro f(x, y=2) %}{{ x ~ y }}{% endmacro %}{{ f(messages | length) }}{{ messages | tojson(indent=2) }}",
            "{{ raise_exception('no') if not tools is defined else strftime_now('%Y') }}{{ bos_token }}",
            "{% generation %}{{ messages[-1].content.split(' ')[0].upper() | replace('A', 'B') }}{% endgeneration %}",
            "{% if messages[2].tool_calls is iterable %}{{ messages[2].tool_calls | map(attribute='function') | list }}"
            "{% endif %}",
        )
    ]


READERS = {
    "gguf": Reader(gguf_seeds, read_gguf),
    "safetensors": Reader(safetensors_seeds, read_safetensors, change=change_header),
    "yaml": Reader(yaml_seeds, read_yaml, change=change_yaml),
    "template": Reader(template_seeds, read_template, bounded=True),
}
