"""AutoRound (PyPI auto-round) to GGUF on the CPU: one mix, one file that llama.cpp loads, and its record.

Run in its own environment (bench/rivals/setup.py autoround):
    python bench/rivals/autoround_gguf.py FOLDER TEXT -o OUT/q4_0.gguf --mix q4_0 [--iters 50] [--types-of PLAIN.gguf]

`--iters 0` is the optimized rounding that the tool itself advises for GGUF (scales searched with an importance matrix
of the text); above 0 it tunes rounding and clipping block by block with signed gradients, and `--alg-ext` adds what its
documentation calls the better, slower variant for GGUF. It has its own choice of tensor types: where rows don't divide
into 256, everything below 6 bits becomes q5_0, so its q2_k and q3_k files are larger than llama.cpp's. `--types-of`
gives each tensor the type that it has in another GGUF file, so that files can be compared at equal bytes.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

from record import Cost, gguf_facts, text_facts, versions, write_record
from text_rows import token_rows

FORMATS = {
    "q4_0": "gguf:q4_0",
    "q4_k_m": "gguf:q4_k_m",
    "q3_k_m": "gguf:q3_k_m",
    "q2_k": "gguf:q2_k_s",
    "q8_0": "gguf:q8_0",
}
PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SPARE = 16  # tokens more than a row, since text that is cut and tokenized again may come out a few tokens shorter


def types_of(path: Path) -> dict[str, str]:
    """The type of each quantized tensor of a llama GGUF file by Hugging Face module: {'model.layers.0.mlp.up_proj':
    'gguf:q4_0'}.
    """
    import gguf

    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        words = tensor.name.split(".")
        if words[0] == "blk" and words[2] in PARTS:
            found[f"model.layers.{words[1]}.{PARTS[words[2]]}"] = f"gguf:{tensor.tensor_type.name.lower()}"
    return found


def keep_types(wanted: dict[str, str]) -> None:
    """Have AutoRound store each layer in the wanted type.

    Its own `layer_config` can't say it: a layer set to q4_0 within a q4_k mix comes out as q4_k, and that falls back to
    q5_0.
    """
    from auto_round.export.formats.backends import gguf as backend

    chosen = backend._select_gguf_layer_type

    def select(layer_name, *args, **kwargs):  # type: ignore[no-untyped-def]
        return wanted.get(layer_name) or chosen(layer_name, *args, **kwargs)

    backend._select_gguf_layer_type = select


def main() -> None:
    """Quantize and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--mix", choices=FORMATS, required=True)
    parser.add_argument("--iters", type=int, default=0)
    parser.add_argument("--alg-ext", action="store_true")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--types-of", type=Path)
    parser.add_argument(
        "--float32", action="store_true", help="Keep weights and products in float32; on a CPU the tool takes bfloat16."
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    cost = Cost()
    import torch
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    name = FORMATS[arguments.mix]
    if arguments.types_of:
        keep_types(types_of(arguments.types_of))
    with tempfile.TemporaryDirectory(prefix="autoround-") as work:
        calibration = Path(work) / "text.json"
        rows = token_rows(tokenizer, arguments.text, arguments.rows, arguments.length + SPARE)
        calibration.write_text(json.dumps([tokenizer.decode(row) for row in rows]), encoding="utf-8")
        tool = AutoRound(
            str(arguments.folder),
            scheme=name.upper(),
            dataset=str(calibration),
            nsamples=arguments.rows,
            seqlen=arguments.length,
            batch_size=arguments.batch,
            iters=arguments.iters,
            enable_alg_ext=arguments.alg_ext,
            device_map="cpu",
            enable_torch_compile=False,
            **({"amp": False} if arguments.float32 else {}),
        )
        tool.quantize_and_save(f"{work}/out", format=name)
        (written,) = Path(work).glob("out/**/*.gguf")
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(written, arguments.output)
    settings = {
        "format": name,
        "iters": arguments.iters,
        "enable_alg_ext": arguments.alg_ext,
        "nsamples": arguments.rows,
        "seqlen": arguments.length,
        "batch_size": arguments.batch,
        "threads": arguments.threads,
        "amp": not arguments.float32,
        "types": f"those of {arguments.types_of.name}" if arguments.types_of else "its own",
    }
    facts = {
        "versions": versions("auto-round", "torch", "transformers", "gguf"),
        "settings": settings,
        "tokens": arguments.rows * arguments.length,
        "text": text_facts(arguments.text),
        **cost.to_dict(),
        **gguf_facts(arguments.output),
    }
    write_record(arguments.output.with_suffix(".json"), "auto-round", arguments.mix, facts)


if __name__ == "__main__":
    main()
