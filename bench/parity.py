"""Hold a run's files against things that are not us: torch, llama.cpp's tokenizer, llama-cpp-python's chat API.

Run    python bench/parity.py runs/demo
Writes bench/results/parity.json: the largest logit difference between ONNX at accuracy level 0 and torch on the same
weights,
       how many token ids llama.cpp and the student's tokenizer agree on, and what the GGUF answers through its own
       template.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from edgedistill.export.gguf.check import check_token_ids
from edgedistill.export.onnx.build import write_onnx
from edgedistill.machine import machine_facts
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.quant.checkpoint import load_grid
from edgedistill.runtimes.onnx import OnnxRuntime
from edgedistill.store.run import RunFolder

TEXT = Path(__file__).parent.parent / "edgedistill" / "data" / "texts" / "judge.txt"
POSITIONS = 256
QUESTION = "What is the capital of France?"
# In a process of its own, with nothing of ours imported.
CHAT = """
import sys
from llama_cpp import Llama
model = Llama(model_path=sys.argv[1], n_ctx=512, n_threads=2, verbose=False)
answer = model.create_chat_completion([{"role": "user", "content": sys.argv[2]}], max_tokens=48, temperature=0.0)
print(answer["choices"][0]["message"]["content"])
"""


def main() -> None:
    """Write bench/results/parity.json for the run folder named on the command line."""
    run = RunFolder.find(Path(sys.argv[1]))
    found: dict[str, object] = {
        "command": f"python bench/parity.py {sys.argv[1]}",
        "machine": machine_facts(),
        "positions": POSITIONS,
    }
    for mix in ("q4_0", "q8_0"):
        folder = run.stages / run.current[f"recover-{mix}"]
        gguf = run.stages / run.current[f"gguf-{mix}"] / "model.gguf"
        checkpoint = load_grid(folder)
        model = load_model(folder, weights={name: checkpoint.decode(name) for name in checkpoint.tensors})
        tokens = load_tokenizer(folder)(TEXT.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"][
            :POSITIONS
        ]
        with torch.no_grad():
            expected = model(torch.tensor([tokens])).logits[0].numpy()
        with tempfile.TemporaryDirectory() as scratch:
            onnx = write_onnx(
                checkpoint, folder, read_shape(folder), Path(scratch) / "level0", {"name": "parity"}, accuracy_level=0
            )
            with OnnxRuntime(onnx, threads=2) as runtime:
                logits = runtime.logits(tokens)
        shipped = run.stages / run.current[f"onnx-{mix}"] / "onnx"
        with OnnxRuntime(shipped, threads=2) as runtime:
            written = "".join(runtime.chat([{"role": "user", "content": QUESTION}], max_tokens=48))
        chat = subprocess.run([sys.executable, "-c", CHAT, gguf, QUESTION], capture_output=True, text=True, check=True)
        found[mix] = {
            "onnx_level_0_largest_logit_difference": float(np.abs(logits - expected).max()),
            "onnx_level_0_same_top_token": float((logits.argmax(-1) == expected.argmax(-1)).mean()),
            "token_ids_equal_to_llama_cpp": check_token_ids(folder, gguf),
            "question": QUESTION,
            "gguf_answer_by_llama_cpp_python": chat.stdout.strip(),
            "onnx_answer": written,
        }
        print(mix, json.dumps(found[mix], indent=1))
    out = Path(__file__).parent / "results" / "parity.json"
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
