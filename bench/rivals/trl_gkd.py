"""TRL's GKDTrainer (PyPI trl) on the CPU, one step at a time on command: the child of bench/trl_step.py, in the
environment `trl`.

    python bench/rivals/trl_gkd.py FOLDER VARIANT --dtype bfloat16 --rows 2 --length 512 --threads 2

The trainer runs its own loop, `Trainer.train`; a callback lets it take its next step when told. Settings that don't
slow it down: `lmbda=0` so that it generates nothing, `beta=0` (the KL, its cheapest divergence), no logging, no saving,
the collator only stacks rows, and in bfloat16 the teacher's weights are in it too. Variant `fastest` turns off gradient
checkpointing, which TRL has on, and freezes the tied table, as a recovery step does; `default` leaves both as TRL has
them.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from stepping import Stepper

STEPS = 1000  # never reached


def main() -> None:
    """Make the trainer and let it run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("variant", choices=("fastest", "default"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")
    stepper = Stepper()
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    fastest = arguments.variant == "fastest"
    teacher = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=getattr(torch, arguments.dtype))
    student = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32)
    tokens = torch.randint(0, student.config.vocab_size, (STEPS, arguments.length)).tolist()

    class OneStep(TrainerCallback):
        """Holds the trainer before each step until a command comes."""

        said = False

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not self.said:
                stepper.ready()
                self.said = True
            stepper.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            stepper.done()

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        ids = torch.tensor([example["input_ids"] for example in examples])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}

    with tempfile.TemporaryDirectory(prefix="trl-") as work:
        config = GKDConfig(
            output_dir=work,
            per_device_train_batch_size=arguments.rows,
            max_steps=STEPS,
            lmbda=0.0,
            beta=0.0,
            temperature=1.0,
            use_cpu=True,
            bf16=arguments.dtype == "bfloat16",
            learning_rate=1e-5,
            max_length=arguments.length,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            **({"gradient_checkpointing": False} if fastest else {}),
        )
        if fastest:
            student.get_input_embeddings().weight.requires_grad_(False)
        trainer = GKDTrainer(
            model=student,
            teacher_model=teacher,
            args=config,
            data_collator=collate,
            callbacks=[OneStep()],
            train_dataset=Dataset.from_dict({"input_ids": tokens}),
            processing_class=AutoTokenizer.from_pretrained(arguments.folder),
        )
        trainer.train()


if __name__ == "__main__":
    main()
