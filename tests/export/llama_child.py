"""Run by the tests as a child process: llama.cpp's own logits and token ids of a GGUF file, through its plain C API
wrapper.

A bad file can abort the process that loads it. Reads {"path", "tokens", "texts", "float_cache"} as JSON on stdin,
writes an .npz to argv[1]. With a float cache, keys and values are kept in float32 instead of float16.
"""

import json
import os
import sys

os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["GOMP_SPINCOUNT"] = "1000"

import llama_cpp
import numpy as np


def main() -> None:
    """Answer one request."""
    asked = json.load(sys.stdin)
    cache = llama_cpp.GGML_TYPE_F32 if asked["float_cache"] else llama_cpp.GGML_TYPE_F16
    settings = {
        "n_ctx": 512,
        "n_threads": 1,
        "n_threads_batch": 1,
        "logits_all": True,
        "type_k": cache,
        "type_v": cache,
    }
    model = llama_cpp.Llama(asked["path"], verbose=False, **settings)
    logits = np.zeros((0, model.n_vocab()), np.float32)
    if asked["tokens"]:
        model.eval(asked["tokens"])
        logits = np.array(model.scores[: len(asked["tokens"])])
    ids = [model.tokenize(text.encode(), add_bos=True, special=True) for text in asked["texts"]]
    chat = model.metadata.get("tokenizer.chat_template", "")
    np.savez(sys.argv[1], logits=logits, ids=np.array(json.dumps(ids)), chat=np.array(chat), eos=model.token_eos())


if __name__ == "__main__":
    main()
