"""A model's tokenizer as transformers uses it, from a Hugging Face folder or rebuilt from a GGUF file.

transformers' own way from GGUF gets some families wrong (a beginning-of-text token that the file says not to add,
digits not split), and its classes for a folder may replace what tokenizer.json says. So the backend is always built
from the file's own tokens, merges and split, and its ids are held against llama.cpp's by the tests.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.errors import InputError
from edgedistill.models import pretokenizers, sentencepiece
from edgedistill.models.templates import NAMED_FOLDER
from edgedistill.models.tokens import CONTROL, SPACE, SPECIAL_IDS, UNKNOWN, USER_DEFINED, Vocabulary, read_json
from edgedistill.models.vocabulary import read_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Texts on which ids are held against llama.cpp's: at every export, and in the tests.
TEST_TEXTS: tuple[str, ...] = (
    "Hello, world!",
    " leading space",
    "trailing space ",
    "  two   spaces    between     words  ",
    "\n",
    "\n\n\n text\n\n  indented\n\ttab\t\ttabs \t mixed\r\nwindows\r\n\r\nlines",
    " ",
    "     ",
    "3 33 333 3333 33333 333333 3.14 1,000,000 12:45 2024-01-31 ½ ² Ⅳ ٣٤٥ १२३",
    "I've been 'told he's there, 'RE you sure? We'Ve a'lL, 'D you, it'll, they'd, I'M",
    "naïve café Ångström straße ﬁancé cafe\u0301 A\u030a",
    "🚀 (normal) 😶\u200d🌫️ (joined) ✅ 🦙🦙 👩\u200d👩\u200d👧\u200d👦 🇫🇷",
    "我想在apple工作1314151天~ 日本語のテキスト。한국어 텍스트",
    "កាន់តែពិសេសអាច нещо на Български שלום عليكم ไทย हिन्दी",
    "def add(a, b):\n    return a + b  # sum\n\n\nif __name__ == '__main__':\n\tprint(f\"{add(1, 2)!r}\")\n",
    '{"key": [1, 2.5e-3, null, true], \'x\': "\\u00e9\\n"} <html><body class="a">&nbsp;</body></html>',
    '------======= ``````` """"...... !!!!!!?????? \'\'\' ### $$$ %%% ^^^ &&& *** +++ ~~~ ||| \\\\\\ ///',
    "https://example.com/path?query=a%20b&c=d#frag user@example.com C:\\Users\\x\\y",
    "\x00\x01\x02\x1b[31m\x7f\u00a0\u2028\u2029\u3000\ufeff\u200b end",
    "a" * 70 + " " + "ab" * 40 + " " + "0123456789" * 5,
    "<|im_start|>user\nWhat is <|endoftext|> here?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|><|im_end|> <|im_end|>x<|im_start|>",
    "almost special: <|im_star|> <|im_end | <|endoftext| > <||> [PAD1] <0x0A>",
    (
        "<s>[INST] Hi [/INST] </s><s>[INST]\n<<SYS>>[/INST]<start_of_turn>user\nHi<end_of_turn>\n<|user|>\n "
        "Hi<|end|>\n\n<|eot_id|>"
    ),
    "▁one▁ ▁two ▁▁three",
    "camelCase HTTPServer iPhone ЖивагО École ÉcoleÀvoir ΑλφαΒήτα ǅ ﬀ ſt",
    "\u202eright to left\u202c \u2066x\u2069 a\u00adb \ud7ff\ue000 \ufffd \U0010ffff \U0001d400\U0001d41a",
    "Pneumonoultramicroscopicsilicovolcanoconiosis" * 8,
    "\n \n  \n\t\n   x\n    y\r\r\n \v \f \x85 \u2028 ",
)


def load_tokenizer(path: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of a Hugging Face folder or a .gguf file. It adds a bos or eos token only where the file says so.

    Raises:
        InputError: as `read_vocabulary`.
    """
    vocabulary = read_vocabulary(path)
    from tokenizers import Tokenizer

    text = plain_tokenizer(path).decode("utf-8-sig") if path.is_dir() else json.dumps(tokenizer_json(path, vocabulary))
    try:
        backend = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{path}: the tokenizer can't be built: {error}; download the model again") from error
    return _wrap(backend, vocabulary)


def save_tokenizer(path: Path, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat templates of the model at `path` into `folder`.

    A folder's tokenizer.json is copied byte for byte, unless it cuts or pads texts.
    """
    vocabulary = read_vocabulary(path)
    folder.mkdir(parents=True, exist_ok=True)
    context: int | None = None
    if path.is_dir():
        (folder / "tokenizer.json").write_bytes(plain_tokenizer(path))
        if (path / "tokenizer_config.json").is_file():
            context = read_json(path / "tokenizer_config.json").get("model_max_length")
    else:
        (folder / "tokenizer.json").write_text(
            json.dumps(tokenizer_json(path, vocabulary), ensure_ascii=False), encoding="utf-8"
        )
    (folder / "tokenizer_config.json").write_text(
        json.dumps(_config(vocabulary, context), indent=2) + "\n", encoding="utf-8"
    )
    if vocabulary.chat_template is not None:
        (folder / "chat_template.jinja").write_text(vocabulary.chat_template, encoding="utf-8")
    for name, template in vocabulary.named_templates:
        (folder / NAMED_FOLDER).mkdir(exist_ok=True)
        (folder / NAMED_FOLDER / f"{name}.jinja").write_text(template, encoding="utf-8")


def plain_tokenizer(folder: Path) -> bytes:
    """A folder's tokenizer.json, without the truncation and the padding that a training script may have left on.

    transformers switches both off for a plain call; other readers of the file don't, and llama.cpp knows neither.

    Raises:
        InputError: it is missing or malformed.
    """
    path = folder / "tokenizer.json"
    data = read_json(path)
    if data.get("truncation") is None and data.get("padding") is None:
        return path.read_bytes()
    return json.dumps(data | {"truncation": None, "padding": None}, ensure_ascii=False, indent=2).encode()


def tokenizer_json(path: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    """The tokenizer.json of a GGUF file's vocabulary: every id as given, added tokens matched before any split.

    Raises:
        InputError: its scores are none that merges can say.
    """
    stripping = vocabulary.rstrip_ids
    added = [
        {
            "id": index,
            "content": vocabulary.tokens[index],
            "single_word": False,
            "lstrip": False,
            "rstrip": index in stripping,
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for index, kind in enumerate(vocabulary.types)
        if kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]
    pieces = _sentencepiece(path, vocabulary) if vocabulary.model == "llama" else _byte_level(vocabulary)
    model = pieces.pop("model")
    vocab = {token: index for index, token in enumerate(vocabulary.tokens)}
    options = {"type": "BPE", "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **pieces,
        "post_processor": _post_processor(vocabulary),
        "model": {**options, **model, "vocab": vocab},
    }


def _byte_level(vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "normalizer": None,
        "pre_tokenizer": pretokenizers.PRE_TOKENIZERS[vocabulary.pre],
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": vocabulary.pre in pretokenizers.IGNORE_MERGES,
            "merges": [merge.split(" ") for merge in vocabulary.merges],
        },
    }


def _sentencepiece(path: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    replace: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    spaces: dict[str, Any] = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    back: list[dict[str, Any]] = [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]
    normalizer = replace
    if vocabulary.prefix == "each":
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]}
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    merges = sentencepiece.merges_of(path, vocabulary.tokens, vocabulary.types, vocabulary.scores)
    return {
        "normalizer": normalizer,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": back},
        "model": {
            "unk_token": vocabulary.token("unk"),
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "merges": [list(merge) for merge in merges],
        },
    }


def _post_processor(vocabulary: Vocabulary) -> dict[str, Any]:
    def piece(name: str, index: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": vocabulary.token(name), "type_id": index}}

    before, after = (["bos"] if vocabulary.add_bos else []), (["eos"] if vocabulary.add_eos else [])
    single: list[dict[str, Any]] = []
    pair: list[dict[str, Any]] = []
    for index, sequence in enumerate("AB"):
        part = [
            *(piece(n, index) for n in before),
            {"Sequence": {"id": sequence, "type_id": index}},
            *(piece(n, index) for n in after),
        ]
        single = single or part
        pair += part
    texts = {name: vocabulary.token(name) for name in (*before, *after)}
    special = {text: {"id": text, "ids": [getattr(vocabulary, name)], "tokens": [text]} for name, text in texts.items()}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def _config(vocabulary: Vocabulary, context: int | None) -> dict[str, Any]:
    config: dict[str, Any] = {
        f"{name}_token": vocabulary.token(name) for name in SPECIAL_IDS if getattr(vocabulary, name) is not None
    }
    if isinstance(context, int):
        config["model_max_length"] = context
    # A class that loads tokenizer.json as it is, in transformers 4 and 5. The template is here too for readers that
    # know no chat_template.jinja.
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if vocabulary.chat_template is not None:
        config["chat_template"] = vocabulary.chat_template
    return config


def _wrap(backend: Any, vocabulary: Vocabulary) -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    special = {f"{name}_token": vocabulary.token(name) for name in SPECIAL_IDS if getattr(vocabulary, name) is not None}
    template: Any = vocabulary.chat_template
    if template is not None and vocabulary.named_templates:
        template = {"default": template, **dict(vocabulary.named_templates)}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=template,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        **special,
    )
