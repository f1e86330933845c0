"""A small llama trained on K-quants, exported, and asked by llama.cpp: the file holds what training saw, and gives what
torch gives.

Run    python bench/k_quant_training.py [--float-steps 300] [--steps 24] [--mix q4_k_m]
Writes bench/results/k_quant_training.json

A llama of width 512 is trained on the prose that comes along, then for a few steps on its grid against itself.
Perplexity on prose that
no training saw is then measured three times on the very same weights: torch in float32; llama.cpp on the decoded
weights as F32, where nothing is rounded; llama.cpp on the packed file, where its kernels round activations to 8 bits a
block of 256. The second must be torch's; the third differs from it by the rounding of activations alone, and by how
much is the measurement. Beside them the float model's and plain rounding's perplexity.
"""

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from edgedistill.data.example import counted_from
from edgedistill.data.packing import make_batch
from edgedistill.data.prose import read_prose
from edgedistill.export.gguf.check import verify_gguf
from edgedistill.export.gguf.write import write_gguf
from edgedistill.losses.forward_kl import ForwardKL
from edgedistill.losses.head import head_loss
from edgedistill.machine import machine_facts
from edgedistill.mixes import assign_formats
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model, save_model
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GridTensor
from edgedistill.quant.latent import Learned
from edgedistill.quant.rounded import round_weights
from edgedistill.recover.place import place_on_grid, take_off_grid
from edgedistill.runtimes.llama import LlamaCpp
from edgedistill.train.forward import kept_hidden

OUT = Path(__file__).parent / "results" / "k_quant_training.json"
SEQ_LEN, ROWS = 256, 4
WINDOW = 256
SIZES = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def make_folder(folder: Path, text: str) -> None:
    """An untrained model with a byte-level BPE of 2,048 tokens trained on the text."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        [text],
        trainers.BpeTrainer(
            vocab_size=2048, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>").save_pretrained(
        folder
    )
    config = LlamaConfig(**SIZES, vocab_size=len(tokenizer.get_vocab()), bos_token_id=0, eos_token_id=0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)


def train_float(model: LlamaForCausalLM, ids: Tensor, steps: int) -> None:
    """Next-token training on random windows of the text."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                1e-3 * min(1.0, (step + 1) / 20) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            )
        starts = torch.randint(0, len(ids) - SEQ_LEN, (ROWS,), generator=generator).tolist()
        rows = torch.stack([ids[s : s + SEQ_LEN] for s in starts])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def train_on_grid(folder: Path, ids: Tensor, mix: str, steps: int) -> GridCheckpoint:
    """A few steps on the mix's grids against the float model, latent weights and scales both."""
    formats = assign_formats(read_shape(folder), mix)
    float_model, model = load_model(folder), load_model(folder)
    rounded = round_weights(model.state_dict(), formats, mix)
    teacher_head = float_model.get_output_embeddings().weight.detach()
    layers = place_on_grid(model, formats, None, Learned())
    gains = [p for n, p in model.named_parameters() if p.requires_grad and ".gain_" in n]
    others = [p for n, p in model.named_parameters() if p.requires_grad and ".gain_" not in n]
    optimizer = torch.optim.AdamW([{"params": gains, "lr": 2e-4}, {"params": others, "lr": 1e-4}], weight_decay=0.0)
    head = model.get_output_embeddings().weight.detach()
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        starts = torch.randint(0, len(ids) - SEQ_LEN, (ROWS,), generator=generator).tolist()
        batch = make_batch([[counted_from(ids[s : s + SEQ_LEN])] for s in starts], SEQ_LEN)
        with torch.no_grad():
            hidden = kept_hidden(float_model, batch, torch.float32)
        head_loss(kept_hidden(model, batch, torch.float32), head, ForwardKL(hidden, teacher_head)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return take_off_grid(model, layers, rounded, formats)


def torch_perplexity(model: LlamaForCausalLM, windows: list[list[int]]) -> float:
    """exp of the mean negative log-likelihood of each window's tokens after the first, float32."""
    with torch.no_grad():
        logits = (model(torch.tensor([window])).logits[0, :-1] for window in windows)
        pairs = zip(logits, windows, strict=True)
        parts = [
            torch.nn.functional.cross_entropy(rows, torch.tensor(ids[1:]), reduction="none") for rows, ids in pairs
        ]
    return float(torch.cat(parts).double().mean().exp())


def llama_perplexity(path: Path, windows: list[list[int]], threads: int) -> float:
    """The same from llama.cpp's logits on a file."""
    total, count = 0.0, 0
    with LlamaCpp(path, threads=threads, context=WINDOW, parallel=1) as runtime:
        for window in windows:
            logits = torch.from_numpy(np.array(runtime.logits(window)))[:-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(window[1:]), reduction="sum"))
            count += len(window) - 1
    return math.exp(total / count)


def main() -> None:
    """Train, export, measure, write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--float-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--mix", default="q4_k_m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--windows", type=int, default=24)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        (text,) = read_prose("train", None)
        make_folder(folder, text)
        tokenizer = load_tokenizer(folder)
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        judge = tokenizer(read_prose("judge", None)[0], add_special_tokens=False)["input_ids"]
        windows = [judge[i : i + WINDOW] for i in range(0, arguments.windows * WINDOW, WINDOW)]
        model = load_model(folder)
        model.train()
        train_float(model, ids, arguments.float_steps)
        source, folder = folder, Path(scratch) / "trained"
        save_model(model.eval(), source, folder)
        shape = read_shape(folder)

        checkpoint = train_on_grid(folder, ids, arguments.mix, arguments.steps)
        rounded = round_weights(model.state_dict(), assign_formats(shape, arguments.mix), arguments.mix)
        packed = write_gguf(checkpoint, folder, shape, Path(scratch) / "packed.gguf", {"name": "small"})
        proof = verify_gguf(checkpoint, folder, shape, packed)
        decoded = {name: checkpoint.decode(name) for name in checkpoint.tensors}
        exact = write_gguf(
            GridCheckpoint("f32", decoded), folder, shape, Path(scratch) / "decoded.gguf", {"name": "small"}
        )
        plain = write_gguf(rounded, folder, shape, Path(scratch) / "rounded.gguf", {"name": "small"})

        grids: dict[str, int] = {}
        for tensor in checkpoint.tensors.values():
            kind = tensor.grid if isinstance(tensor, GridTensor) else "f32"
            grids[kind] = grids.get(kind, 0) + 1
        in_torch = torch_perplexity(load_model(folder, weights=decoded), windows)
        in_llama_f32 = llama_perplexity(exact, windows, arguments.threads)
        in_llama = llama_perplexity(packed, windows, arguments.threads)
        found = {
            "command": f"python bench/k_quant_training.py --float-steps {arguments.float_steps} --steps "
            f"{arguments.steps} "
            f"--mix {arguments.mix}",
            "machine": machine_facts(),
            "model": SIZES,
            "mix": arguments.mix,
            "tensors": grids,
            "verify": {"tensors": proof.tensors, "blocks": proof.blocks, "differences": len(proof.differences)},
            "judged_tokens": len(windows) * (WINDOW - 1),
            "perplexity": {
                "float model, torch": torch_perplexity(model, windows),
                "plain rounding, llama.cpp": llama_perplexity(plain, windows, arguments.threads),
                "trained on the grid, torch float32": in_torch,
                "trained on the grid, llama.cpp on decoded F32 weights": in_llama_f32,
                "trained on the grid, llama.cpp on the packed file": in_llama,
            },
            "runtime_difference": in_llama_f32 / in_torch - 1,
            "activation_rounding_difference": in_llama / in_llama_f32 - 1,
        }
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
