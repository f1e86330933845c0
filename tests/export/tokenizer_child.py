"""Run by the tests as a child process: llama.cpp's own token ids of GGUF files that hold a tokenizer and no weights.

A bad file can abort the process that loads it. Reads [{"path", "texts", "special"}] as JSON on stdin; prints for each
the ids of its texts (a bos or eos token added where the file says so), the bytes that each token writes, and the ids
that end a text.
"""

import ctypes
import json
import os
import sys

os.environ["OMP_WAIT_POLICY"] = "passive"

import llama_cpp.llama_cpp as lib


@lib.llama_log_callback
def keep_errors(level: int, text: bytes, _: object) -> None:
    """Only errors go to stderr."""
    if level == 4:
        sys.stderr.write(text.decode(errors="replace"))


def answer(path: str, texts: list[str], special: bool) -> dict:
    """What llama.cpp makes of one file."""
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(path.encode(), params)
    if not model:
        sys.exit(f"llama.cpp can't load {path}")
    vocab = lib.llama_model_get_vocab(model)
    ids = []
    for text in texts:
        data = text.encode()
        room = len(data) + 8
        buffer = (lib.llama_token * room)()
        count = lib.llama_tokenize(vocab, data, len(data), buffer, room, True, special)
        ids.append(list(buffer[:count]))
    tokens = range(lib.llama_vocab_n_tokens(vocab))
    buffer = ctypes.create_string_buffer(1024)
    pieces = []
    for token in tokens:
        count = lib.llama_token_to_piece(vocab, token, buffer, 1024, 0, True)
        pieces.append(buffer.raw[:count].hex())
    ends = [token for token in tokens if lib.llama_vocab_is_eog(vocab, token)]
    lib.llama_model_free(model)
    return {"ids": ids, "pieces": pieces, "ends": ends}


if __name__ == "__main__":
    lib.llama_log_set(keep_errors, ctypes.c_void_p(0))
    lib.llama_backend_init()
    json.dump([answer(**request) for request in json.load(sys.stdin)], sys.stdout)
