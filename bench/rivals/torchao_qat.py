"""torchao quantization-aware training (PyPI torchao), int4 in groups of 32, towards the float model's own distribution:
KL, live teacher.

Run in its own environment (bench/rivals/setup.py torchao):
    python bench/rivals/torchao_qat.py FOLDER TEXT -o OUT/trained [--tokens 100000] [--rates 5e-5,1e-4,2e-4]
then, in edgedistill's environment, for each mix:
    python bench/rivals/pack.py OUT/trained FOLDER -o OUT/q4_0.gguf --mix q4_0

Follows torchao's QAT guide: `quantize_(model, QATConfig(IntxWeightOnlyConfig(int4, PerGroup(32)), step="prepare"))`,
training, convert. The guide fine-tunes on next tokens; the KL to the float model is the kinder loss here. The tied
table is frozen, linear layers and norms are trained, matrix products run in bfloat16 over float32 masters. A short try
of each learning rate is judged by its KL on rows that are never trained on; the best one is then run from the start.
Nobody writes a GGUF file from torchao: what people do is to hand the trained weights to llama.cpp's quantizer. Written
is therefore
    OUT/trained/model.safetensors   the trained float weights ("latent"), under Hugging Face names
    OUT/trained/codes.safetensors   what torchao's own convert step makes of them: NAME.codes int8 [O, I], NAME.scale
    float32 [O, I/32]
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from record import Cost, text_facts, versions, write_record
from text_rows import token_rows

GROUP = 32
WARMUP, FLOOR = 0.1, 0.1  # share of the steps that the rate rises in; share of its peak that it ends at
HELD_OUT = 8  # rows that judge a learning rate


def main() -> None:
    """Try the rates, train with the best, write weights and codes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--rates", default="5e-5,1e-4,2e-4")
    parser.add_argument("--try-tokens", type=int, default=10_000)
    parser.add_argument("--bits", type=int, choices=(3, 4, 5, 8), default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    cost = Cost()
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    count = max(1, round(arguments.tokens / arguments.length))
    found = token_rows(
        AutoTokenizer.from_pretrained(arguments.folder), arguments.text, count + HELD_OUT, arguments.length
    )
    rows = torch.tensor(found)
    held_out, training = rows[:HELD_OUT], rows[HELD_OUT:]
    run = Run(arguments, held_out)
    rates = [float(rate) for rate in arguments.rates.split(",")]
    tries = []
    for rate in rates if len(rates) > 1 else []:
        model, _ = run.train(training[: max(1, arguments.try_tokens // arguments.length)], rate)
        tries.append({"rate": rate, "kl": run.judge(model)})
        sys.stderr.write(f"{tries[-1]}\n")
    best = min(tries, key=lambda one: one["kl"])["rate"] if tries else rates[0]
    model, seconds = run.train(training, best)
    kl = {"rounded": run.judge(run.student()), "trained": run.judge(model)}
    sys.stderr.write(f"rate {best}: KL on held-out rows {kl}\n")
    run.save(model, arguments.output)
    settings = {
        "base_config": f"IntxWeightOnlyConfig(int{arguments.bits}, PerGroup({GROUP}), symmetric)",
        "loss": "KL(float model || student), live teacher",
        "rate": best,
        "tries": tries,
        "try_tokens": arguments.try_tokens,
        "batch": [arguments.batch, arguments.length],
        "optimizer": "AdamW (0.9, 0.95), cosine to a tenth, a tenth of warm-up, clip 1",
        "compute": "bfloat16",
        "threads": arguments.threads,
    }
    tried = len(tries) * max(1, arguments.try_tokens // arguments.length) * arguments.length
    facts = {
        "versions": versions("torchao", "torch", "transformers"),
        "settings": settings,
        "tokens": training.numel(),
        "tokens_of_tries": tried,
        "training_seconds": round(seconds, 1),
        "held_out_kl": kl,
        "text": text_facts(arguments.text),
        **cost.to_dict(),
    }
    write_record(arguments.output / "record.json", "torchao", f"int{arguments.bits}", facts)


class Run:
    """The float teacher, and how a student is made, trained and judged against it."""

    def __init__(self, arguments: argparse.Namespace, held_out: Any) -> None:
        self.arguments, self.held_out = arguments, held_out
        self.teacher = self.load().eval().requires_grad_(False)

    def load(self) -> Any:
        """The float model in float32."""
        import torch
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.arguments.folder, dtype=torch.float32)

    def student(self) -> Any:
        """The float model with torchao's fake-quantized linear layers; the output layer, tied to the embedding, stays
        float.
        """
        import torch
        from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_
        from torchao.quantization.qat import QATConfig

        model = self.load()
        self.base = IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, f"int{self.arguments.bits}"), granularity=PerGroup(GROUP)
        )
        quantize_(model, QATConfig(self.base, step="prepare"), filter_fn=is_inner)
        model.get_input_embeddings().weight.requires_grad_(False)
        model.get_output_embeddings().weight.requires_grad_(False)
        return model

    def loss(self, model: Any, rows: Any) -> Any:
        """Mean KL(teacher || student) over all positions of rows [B, T], in nats per token."""
        import torch
        from torch.nn import functional

        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                teacher = self.teacher(input_ids=rows, use_cache=False).logits
            student = model(input_ids=rows, use_cache=False).logits
        p, q = (functional.log_softmax(logits.flatten(0, 1).float(), dim=-1) for logits in (teacher, student))
        return functional.kl_div(q, p, log_target=True, reduction="batchmean")

    def train(self, rows: Any, rate: float) -> tuple[Any, float]:
        """A student after one pass over rows [R, T], and the seconds that it took."""
        import torch

        started = time.perf_counter()
        model = self.student().train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        batches = rows.split(self.arguments.batch)
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(step, len(batches))
            loss = self.loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step % 10 == 0:
                sys.stderr.write(
                    f"rate {rate} step {step}/{len(batches)} KL {loss.item():.4f} "
                    f"{time.perf_counter() - started:.0f} s\n"
                )
        return model, time.perf_counter() - started

    def judge(self, model: Any) -> float:
        """Mean KL on the held-out rows."""
        import torch

        model.eval()
        with torch.no_grad():
            return sum(self.loss(model, row).item() for row in self.held_out.split(1)) / len(self.held_out)

    def save(self, model: Any, folder: Path) -> None:
        """Write the trained float weights, and the codes and scales of torchao's convert step."""
        from safetensors.torch import save_file
        from torchao.quantization import quantize_
        from torchao.quantization.qat import QATConfig

        folder.mkdir(parents=True, exist_ok=True)
        state = {name: p.detach().clone() for name, p in model.named_parameters() if not name.startswith("lm_head")}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        quantize_(model, QATConfig(self.base, step="convert"), filter_fn=is_inner)
        codes = {}
        for name, module in model.named_modules():
            if is_inner(module, name):
                codes[f"{name}.weight.codes"] = module.weight.qdata.clone()
                codes[f"{name}.weight.scale"] = module.weight.scale.float().clone()
        save_file(
            codes,
            folder / "codes.safetensors",
            metadata={"facts": json.dumps({"bits": self.arguments.bits, "group": GROUP})},
        )


def is_inner(module: Any, name: str) -> bool:
    """Whether a module is a linear layer of the blocks."""
    import torch

    return isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")


def schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to the floor: the share of the peak rate at a step."""
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


if __name__ == "__main__":
    main()
