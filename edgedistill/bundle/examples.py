"""The bundle's `examples/`: small programs that run as they are, each naming the real files of its bundle.

They are kept as text under programs/, with `@NAME@` where a value goes and `@if WORD@`, `@else@`, `@end@` on lines of
their own. Only safe file names and numbers go in, and into main.cpp two string literals of escaped ASCII: whatever the
model's makers wrote into names and templates, it can't become code. A system message is read from bundle.json.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from edgedistill.bundle.names import INNER
from edgedistill.bundle.settings import ModelSettings
from edgedistill.bundle.turns import around_question
from edgedistill.runtimes import repetition
from edgedistill.store.whole import atomic_write

PROGRAMS = Path(__file__).with_name("programs")
PAGE = "examples/browser/"
# transformers.js asks for a file by its dtype.
DTYPES = {"model_q4.onnx": "q4", "model_quantized.onnx": "q8", "model.onnx": "fp32"}
MOST_LITERAL = 4000  # bytes of a string literal; compilers must take 65535, some 16380
C_PLAIN = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 <>|_-.,:;!'/()[]{}=+*#@&~^"
)  # no ?: trigraphs
LITERAL = re.compile(r'"(?:[A-Za-z0-9 <>|_\-.,:;!\'/()\[\]{}=+*#@&~^]|\\n|\\[0-7]{3})*"')

ALWAYS = {
    "README.md": "README.md",
    "browser/index.html": "browser/index.html",
    "browser/chat.mjs": "browser/chat.mjs",
    "browser/serve.py": "browser/serve.py",
    "browser/package.json": "browser/package.json",
    "browser/repetition.mjs": "repetition.mjs",
    "browser/README.md": "browser/README.md",
    "android/README.md": "android/README.md",
}
GGUF = {
    "chat_llama_cpp.py": "chat_llama_cpp.py",
    "chat_openai.py": "chat_openai.py",
    "browser/engine.mjs": "browser/wllama.mjs",
}
CPP = {"cpp/main.cpp": "cpp/main.cpp", "cpp/CMakeLists.txt": "cpp/CMakeLists.txt", "cpp/README.md": "cpp/README.md"}
ONNX = {
    "chat_onnxruntime.py": "chat_onnxruntime.py",
    "node/chat.mjs": "node/chat.mjs",
    "node/package.json": "node/package.json",
    "node/repetition.mjs": "repetition.mjs",
}


def write_examples(folder: Path, gguf: Path | None, onnx: Path | None, settings: ModelSettings) -> None:
    """Write `examples/` into a bundle.

    Args:
        folder: the bundle; `gguf` and `onnx` lie directly in it, or are None where it has none.
        settings: of the model.
    """
    has_system = settings.chat.system is not None
    values: dict[str, str | float] = {
        "CONTEXT": settings.context,
        "ANSWER": settings.longest_answer,
        "TEMPERATURE": settings.chat.temperature,
        "TOP_P": settings.chat.top_p,
        "MOST_PERIOD": repetition.MOST_PERIOD,
        "COPIES": repetition.COPIES,
        "LEAST": repetition.LEAST,
        "PAGE": PAGE,
        "DATA": "",
        "SYSTEM_PY": '{"role": "system", "content": SYSTEM}, ' if has_system else "",
        "SYSTEM_JS": "{ role: 'system', content: SYSTEM }, " if has_system else "",
    }
    words = {"chat"} if settings.template else set()
    if has_system:
        words.add("system")
    files = dict(ALWAYS)
    if gguf:
        words.add("gguf")
        values["GGUF"] = gguf.name
        files |= GGUF
        literals = _literals(settings)
        if literals is not None:
            words.add("cpp")
            values["BEFORE"], values["BEHIND"] = literals
            files |= CPP
    if onnx:
        words.add("onnx")
        graph = next(iter(sorted((onnx / "onnx").glob("*.onnx"))), None)
        values |= {"ONNX": onnx.name, "ONNX_FILE": graph.name if graph else "model.onnx"}
        values["DTYPE"] = DTYPES.get(str(values["ONNX_FILE"]), "fp32")
        if (onnx / "onnx" / f"{values['ONNX_FILE']}_data").is_file():
            values["DATA"] = f", which finds `{values['ONNX_FILE']}_data` beside it"
        files |= ONNX
        if not gguf:
            files["browser/engine.mjs"] = "browser/transformers.mjs"
    # The guard of `edgedistill chat` itself, which imports nothing.
    guard = Path(repetition.__file__).read_text(encoding="utf-8")
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "examples" / "repetition.py", guard)
    for name, source in files.items():
        place = folder / "examples" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        text = (PROGRAMS / f"{source}.in").read_text(encoding="utf-8")
        atomic_write(place, fill(text, values, words))


def fill(text: str, values: Mapping[str, str | float], words: set[str]) -> str:
    """A program with its values: lines between `@if WORD@` and `@end@` stay if the word is among `words`, those after
    `@else@` if not.

    Raises:
        ValueError: the program wants a value that isn't there, or one isn't harmless in code.
    """
    lines, keep = [], True
    for line in text.splitlines():
        if start := re.fullmatch(r"@if ([a-z]+)@", line):
            keep = start[1] in words
        elif line == "@else@":
            keep = not keep
        elif line == "@end@":
            keep = True
        elif keep:
            lines.append(line)

    def value(match: re.Match[str]) -> str:
        named = values.get(match[1])
        if named is None:
            raise ValueError(f"the program needs {match[1]}, which this bundle doesn't have")
        ours = match[1] in ("PAGE", "DATA", "SYSTEM_PY", "SYSTEM_JS")  # code and sentences of ours
        if isinstance(named, float):
            return f"{named:g}"
        if isinstance(named, int):
            return str(named)
        if not (ours or INNER.fullmatch(named) or LITERAL.fullmatch(named)):
            raise ValueError(f"{match[1]} is {named!r}, which is no safe file name")
        return named

    return re.sub(r"@([A-Z_]+)@", value, "\n".join(lines) + "\n")


def _literals(settings: ModelSettings) -> tuple[str, str] | None:
    """The prompt around a question as C string literals; None where the template refuses one or is too long for a
    literal.
    """
    if settings.template is None:
        return '""', '""'
    around = around_question(settings.template, settings.bos, settings.eos, settings.chat.system)
    if around is None or sum(len(text.encode("utf-8", "replace")) for text in around) > MOST_LITERAL:
        return None
    return c_string(around[0]), c_string(around[1])


def c_string(text: str) -> str:
    """A C string literal of plain ASCII: all else in octal, always three digits, so that a digit behind can't join
    it.
    """
    out = []
    for byte in text.encode("utf-8", "replace"):
        out.append(chr(byte) if byte in C_PLAIN else "\\n" if byte == 0x0A else f"\\{byte:03o}")
    return f'"{"".join(out)}"'
