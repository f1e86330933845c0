"""Whole GGUF files of four families with their kind of tokenizer: made-up text, chats, and where an answer ends, in
llama.cpp.
"""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedistill.errors import InputError, VerifyError
from edgedistill.export.gguf.check import check_token_ids, verify_gguf
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.models.differences import known_difference
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.models.vocabulary import read_vocabulary
from edgedistill.runtimes.llama import LlamaCpp
from tests.tiny import make_tiny
from tests.tokenizers import PIECES, byte_level, sentencepiece, write_folder

BOS = ["<s>", "$A"]
PHI_CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
INST_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
MODELS = {
    "phi3": (lambda: sentencepiece("each", rstrip=True, template=BOS), PHI_CHAT, [2, 6, 9]),
    "gemma3_text": (lambda: sentencepiece("none", runs_added=True, template=BOS), INST_CHAT, [2, 4]),
    "mistral": (lambda: sentencepiece("first", template=BOS), INST_CHAT, [2]),
    "olmo2": (lambda: byte_level("dbrx"), PHI_CHAT, [2, 3]),
}
MESSAGES = [
    {"role": "user", "content": "  Hi there,\n\n what's  it?"},
    {"role": "assistant", "content": "Naïve 中文 12345."},
]
MESSAGES.append({"role": "user", "content": "▁ \t<|end|>x"})
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.characters(exclude_categories=["Cs"])), max_size=25).map("".join)


@pytest.fixture(scope="module", params=MODELS)
def written(request, tmp_path_factory) -> tuple[Path, Path]:
    """A folder and its GGUF file."""
    make, chat, ends = MODELS[request.param]
    data = make()
    room = tmp_path_factory.mktemp(request.param)
    folder = make_tiny(request.param, room / "model", vocab_size=len(data["model"]["vocab"]) + 3, pad_token_id=3)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    write_folder(folder, data, {"chat_template": chat}, {"eos_token_id": ends})
    shape = read_shape(folder)
    state = load_model(folder).state_dict()
    checkpoint = float_checkpoint({tensor.name: state[tensor.name] for tensor in shape.tensors()}, "f32")
    path = write_gguf(checkpoint, folder, shape, room / "model.gguf", {"name": "Tiny"})
    verify_gguf(checkpoint, folder, shape, path)
    return folder, path


@pytest.fixture(scope="module")
def runtime(written):
    with LlamaCpp(written[1], threads=1, context=256, parallel=1) as model:
        yield model


def test_the_check_at_export_passes_and_sees_a_difference(written, tmp_path):
    folder, path = written
    assert check_token_ids(folder, path) > 300
    other = write_folder(tmp_path, json.loads((folder / "tokenizer.json").read_text()), {})
    data = json.loads((other / "tokenizer.json").read_text())
    vocab = data["model"]["vocab"]
    used, unused = load_tokenizer(folder).tokenize("</s>Hello, world!")[1], "q"
    vocab[used], vocab[unused] = vocab[unused], vocab[used]
    (other / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(
        VerifyError, match=r"llama.cpp splits .* otherwise than the folder's tokenizer: from token \d+ on"
    ):
        check_token_ids(other, path)


def test_made_up_text(written, runtime):
    folder, path = written
    sides = [(read_vocabulary(side), load_tokenizer(side)) for side in (folder, path)]

    @settings(max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(TEXT)
    def equal(text: str) -> None:
        found = runtime.tokenize(text, special=True, add_bos=True)
        for vocabulary, tokenizer in sides:
            assert known_difference(vocabulary, text) or tokenizer(text)["input_ids"] == found

    equal()


def test_a_chat_has_transformers_ids(written, runtime):
    folder, _ = written
    tokenizer = load_tokenizer(folder)
    expected = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    text, found = runtime.apply_template(MESSAGES)
    assert text == tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert runtime.tokenize(text) == found == expected


def test_an_answer_ends_where_transformers_ends_it(written, runtime):
    folder, path = written
    stated = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert set(stated) <= set(runtime.info().stop_ids)
    assert set(runtime.info().stop_ids) == set(read_vocabulary(path).ends)


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff"])
def test_half_a_character_is_no_text(text, runtime):
    with pytest.raises(InputError, match="half of a surrogate pair"):
        runtime.tokenize(text)
