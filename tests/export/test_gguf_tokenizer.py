"""Each tokenizer that we claim to know gives llama.cpp's ids, from a folder and rebuilt from the GGUF file's own
keys.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import pytest
from transformers import AutoTokenizer

from edgedistill.export.gguf.tokenizer import add_tokenizer, known_name
from edgedistill.models.differences import known_difference
from edgedistill.models.pretokenizers import PRE_TOKENIZERS
from edgedistill.models.tokenizer import TEST_TEXTS, load_tokenizer, save_tokenizer
from edgedistill.models.vocabulary import Vocabulary, read_vocabulary
from tests.tokenizers import ADDED, byte_level, random_texts, sentencepiece, spaced, write_folder

CHILD = Path(__file__).with_name("tokenizer_child.py")
TEXTS = [
    "",
    *TEST_TEXTS,
    *random_texts(400, seed=2),
    *(" " * n + "x" for n in range(40)),
    *("\n" * n for n in range(40)),
    "a" * 3000,
]


@dataclass
class Case:
    """One tokenizer: how to make its tokenizer.json, what tokenizer_config.json adds, and what llama.cpp and we make of
    it.
    """

    make: Callable[[], dict]
    config: dict = field(default_factory=dict)
    folder: Path = Path()
    file: Path = Path()
    llama: dict = field(default_factory=dict)  # special or not -> ids of TEXTS
    ends: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)


def cases() -> dict[str, Case]:
    made = {pre: Case(lambda pre=pre: byte_level(pre)) for pre in PRE_TOKENIZERS}
    return made | {
        "llama-bpe with bos": Case(lambda: byte_level("llama-bpe", template=["<s>", "$A"])),
        "dbrx with eos": Case(lambda: byte_level("dbrx", template=["$A", "</s>"])),
        "qwen2 with NFC": Case(lambda: byte_level("qwen2", normalizer={"type": "NFC"})),
        "qwen2, </s> untaken": Case(lambda: byte_level("qwen2", without="</s>"), {"eos_token": "<|im_end|>"}),
        "llama 2": Case(lambda: sentencepiece("each", template=["<s>", "$A"])),
        "llama 2 without bos": Case(lambda: sentencepiece("each"), {"add_bos_token": True}),
        "gemma": Case(lambda: sentencepiece("none", runs_added=True, template=["<s>", "$A"])),
        "metaspace never": Case(lambda: sentencepiece("never")),
        "metaspace first": Case(lambda: sentencepiece("first", template=["<s>", "$A"])),
        "phi-3": Case(lambda: sentencepiece("each", rstrip=True, template=["<s>", "$A"])),
    }


NAMES = list(cases())


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> dict[str, Case]:
    """Every case written as a folder and as a GGUF file without weights, and what one llama.cpp says of all the
    files.
    """
    room = tmp_path_factory.mktemp("tokenizers")
    found = cases()
    requests = []
    for number, case in enumerate(found.values()):
        case.folder = write_folder(room / str(number), case.make(), case.config)
        case.file = write_file(case.folder, room / f"{number}.gguf")
        requests += [{"path": str(case.file), "texts": TEXTS, "special": special} for special in (True, False)]
    answers = ask(requests)
    for case, read, plain in zip(found.values(), answers[::2], answers[1::2], strict=True):
        case.llama = {True: read["ids"], False: plain["ids"]}
        case.ends, case.pieces = read["ends"], read["pieces"]
    return found


def write_file(folder: Path, out: Path) -> Path:
    return write_vocabulary(read_vocabulary(folder), out)


def write_vocabulary(vocabulary: Vocabulary, out: Path) -> Path:
    logging.getLogger("gguf.gguf_writer").setLevel(logging.ERROR)
    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_name(known_name("Tiny", vocabulary))
    writer.add_vocab_size(len(vocabulary.tokens))
    add_tokenizer(writer, vocabulary.stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return out


def ask(requests: list[dict]) -> list[dict]:
    done = subprocess.run(
        [sys.executable, CHILD], input=json.dumps(requests), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"llama.cpp ended with {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


def ids(tokenizer, text: str, special: bool) -> list[int]:
    return tokenizer(text, split_special_tokens=not special)["input_ids"]


@pytest.mark.parametrize("special", [True, False], ids=["special", "plain"])
@pytest.mark.parametrize("name", NAMES)
def test_ids_equal_llama_cpps(name, special, known):
    case = known[name]
    vocabulary, stored = read_vocabulary(case.folder), read_vocabulary(case.file)
    folders, files = load_tokenizer(case.folder), load_tokenizer(case.file)
    compared = 0
    for text, expected in zip(TEXTS, case.llama[special], strict=True):
        if not known_difference(vocabulary, text, special):
            assert ids(folders, text, special) == expected, text
            compared += 1
        if not known_difference(stored, text, special):
            assert ids(files, text, special) == expected, text
    least = 0.15 if name == "metaspace first" else 0.45 if name in ("tekken", "gpt-4o", "qwen2, </s> untaken") else 0.7
    assert compared > least * len(TEXTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_holds_its_folders_tokenizer(name, known, tmp_path):
    case = known[name]
    vocabulary, stored = read_vocabulary(case.folder), read_vocabulary(case.file)
    assert stored == vocabulary.stored
    save_tokenizer(case.file, tmp_path / "rebuilt")
    # The name alone tells of spaces behind special tokens in a file; a folder says it of each token.
    assert read_vocabulary(tmp_path / "rebuilt") == stored
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "rebuilt"), load_tokenizer(case.file)
    assert [theirs(text)["input_ids"] for text in TEST_TEXTS] == [ours(text)["input_ids"] for text in TEST_TEXTS]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_the_text(name, known):
    case = known[name]
    vocabulary = read_vocabulary(case.file)
    for text, found in zip(TEXTS, case.llama[False], strict=True):
        if vocabulary.prefix == "each" and any(token in text for token in ADDED):
            continue  # each begins a stretch with a space of its own
        body = found[vocabulary.add_bos : len(found) - vocabulary.add_eos]
        written = bytes.fromhex("".join(case.pieces[token] for token in body)).decode()
        expected = text.replace("▁", " ") if vocabulary.model == "llama" else text
        assert written == (" " if vocabulary.prefix == "each" and text else "") + expected


# A tokenizer, a text, and why llama.cpp takes it otherwise: each stands until llama.cpp learns it.
DIFFERENT = [
    ("qwen2 with NFC", "cafe\u0301 A\u030a", "normalized to NFC"),
    ("gpt-4o", "हिन्दी", "case and marks"),
    ("tekken", "cafe\u0301s", "case and marks"),
    ("llama-bpe", "it'ſt", "contraction"),
    ("qwen2, </s> untaken", "a</s>b", "control token by its text"),
    ("metaspace first", "The cat", "begins with no special token"),
    ("gemma", "▁▁ a", "character ▁ itself"),
    ("phi-3", "<|user|>\u3000x", "spaces other than ASCII's"),
]


@pytest.mark.parametrize(("name", "text", "why"), DIFFERENT)
def test_known_differences(name, text, why, known):
    case = known[name]
    assert why in (known_difference(read_vocabulary(case.folder), text) or "")
    (answer,) = ask([{"path": str(case.file), "texts": [text], "special": True}])
    assert load_tokenizer(case.folder)(text)["input_ids"] != answer["ids"][0]


def test_what_is_no_known_difference(known):
    for name, text in [
        ("gpt-4o", "École ÉCOLE naïve iPhone Жизнь ЖИЗНЬ 中文A ǅ"),
        ("qwen2 with NFC", "caf\u00e9"),
        ("metaspace first", "<s>The cat"),
        ("metaspace first", " The"),
        ("phi-3", "a>b\u3000c"),
        ("llama-bpe", "it's ſ"),
        ("gemma", "▁ a"),
        ("qwen2", "a</s>b"),
    ]:
        assert known_difference(read_vocabulary(known[name].folder), text) is None, text


def test_a_text_ends_where_transformers_ends_it(known, tmp_path):
    data = byte_level("llama-bpe")
    wanted = [
        data["model"]["vocab"].get(token) or ADDED.index(token) for token in ("</s>", "<tool>", "[INST]", "<|im_end|>")
    ]
    folder = write_folder(tmp_path / "model", data, {}, {"eos_token_id": wanted})
    vocabulary = read_vocabulary(folder)
    assert (vocabulary.token("eot"), vocabulary.token("eom")) == ("<tool>", "[INST]")
    (answer,) = ask([{"path": str(write_file(folder, tmp_path / "m.gguf")), "texts": [], "special": True}])
    assert set(wanted) <= set(answer["ends"])
    assert set(answer["ends"]) == set(vocabulary.ends) == set(read_vocabulary(tmp_path / "m.gguf").ends)
    assert all(set(case.ends) == set(read_vocabulary(case.file).ends) for case in known.values())


def test_templates_of_other_names(tmp_path):
    templates = [{"name": name, "template": name.upper()} for name in ("default", "tool_use", "a-b")]
    folder = write_folder(tmp_path / "model", byte_level("gpt-2"), {"chat_template": templates})
    assert read_vocabulary(folder).named_templates == (("a_b", "A-B"), ("tool_use", "TOOL_USE"))
    path = write_file(folder, tmp_path / "m.gguf")
    assert read_vocabulary(path) == read_vocabulary(folder)
    save_tokenizer(path, tmp_path / "rebuilt")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "rebuilt")
    assert (
        theirs.chat_template
        == load_tokenizer(path).chat_template
        == {"default": "DEFAULT", "tool_use": "TOOL_USE", "a_b": "A-B"}
    )


@pytest.mark.parametrize(
    ("name", "rstrip", "written"),
    [
        ("Phi-3-mini student", False, "Phi 3-mini student"),
        ("PHI3", False, "PHI 3"),
        ("phi-4", False, "phi-4"),
        (None, False, None),
        ("Phi-3.5-mini", True, "Phi-3.5-mini"),
        ("my model", True, "my model (phi-3)"),
        (None, True, "phi-3"),
    ],
)
def test_the_name_by_which_llama_cpp_knows_phi(name, rstrip, written, known):
    assert known_name(name, read_vocabulary(known["phi-3" if rstrip else "gpt-2"].folder)) == written


def test_runs_of_spaces_as_published_gemma_files_have_them(known, tmp_path):
    published = write_vocabulary(spaced(read_vocabulary(known["gemma"].folder)), tmp_path / "published.gguf")
    vocabulary = read_vocabulary(published)
    assert "  " in vocabulary.tokens
    save_tokenizer(published, tmp_path / "rebuilt")
    again = read_vocabulary(tmp_path / "rebuilt")
    assert (again.tokens, again.types) == (vocabulary.tokens, vocabulary.types)
    exported = write_vocabulary(again, tmp_path / "exported.gguf")
    requests = [{"path": str(path), "texts": TEXTS, "special": True} for path in (published, exported)]
    before, after = ask(requests)
    assert before["ids"] == after["ids"]
    tokenizers = [load_tokenizer(path) for path in (published, tmp_path / "rebuilt", exported)]
    for text, expected in zip(TEXTS, before["ids"], strict=True):
        if not known_difference(vocabulary, text):
            for tokenizer in tokenizers:
                assert ids(tokenizer, text, True) == expected, text
