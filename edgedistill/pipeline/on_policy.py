"""How an on-policy round is made: the model in training is written as a GGUF file, which answers in llama.cpp, and its
teacher adds what it thinks of that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.config.on_policy import OnPolicy
from edgedistill.config.phase import Phase
from edgedistill.errors import RunError
from edgedistill.export import GGUF_NAME
from edgedistill.pipeline.context import Context
from edgedistill.pipeline.files import TEACHER_FILE
from edgedistill.pipeline.stage import Finished

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgedistill.data.example import Example
    from edgedistill.teach.own_text import Answering

SCRATCH = "own-text"  # the model in training as a file, while it writes


@dataclass(frozen=True)
class OnPolicyRounds:
    """The rounds of one run."""

    context: Context

    def inputs(self, phase: Phase) -> tuple[str, ...]:
        """Stages that a phase reads for them: the file with which the teacher scores."""
        scores = phase.on_policy is not None and phase.compares
        return (TEACHER_FILE,) if scores and not self.context.own_file else ()

    def author(
        self, phase: Phase, student: Path, sources: "Mapping[str, Sequence[Example]]", folder: Path, done: Finished
    ) -> "Callable[[PreTrainedModel, int], Sequence[Example]] | None":
        """Who writes a phase's rounds; None where it has none.

        Args:
            phase: the student's.
            student: a folder with its tokenizer.
            sources: the training text, whose prompts are asked.
            folder: the stage's.
            done: the stages before it.
        """
        settings = phase.on_policy
        if settings is None:
            return None
        examples = [example for of_source in sources.values() for example in of_source]
        answering = self._answering(settings, examples, phase.seq_len, settings.round_tokens(phase.step_tokens))
        top_k = self.context.recipe.teacher.top_k if phase.compares else 0

        def write(model: "PreTrainedModel", seed: int) -> "Sequence[Example]":
            from edgedistill.export.gguf.write import float_checkpoint, write_gguf
            from edgedistill.teach.own_text import own_kept, write_own_text
            from edgedistill.train.checkpoints import FOLDER as CHECKPOINTS

            shape, state = self.context.shape, model.state_dict()
            # Among the checkpoints, which go when the training is whole.
            scratch = folder / CHECKPOINTS / SCRATCH
            scratch.mkdir(parents=True, exist_ok=True)
            file = scratch / GGUF_NAME
            tensors = {tensor.name: state[tensor.name].detach() for tensor in shape.tensors()}
            write_gguf(float_checkpoint(tensors, "f16"), student, shape, file, {})
            text = write_own_text(file, answering, seed, scratch)
            file.unlink()
            done.progress.note(f"the student wrote {len(text)} answers, {own_kept(text)} tokens, to learn from")
            return self._scored(text, top_k, answering, done) if top_k else text

        return write

    def _answering(self, settings: OnPolicy, examples: "Sequence[Example]", seq_len: int, tokens: int) -> "Answering":
        from edgedistill.models.tokenizer import load_tokenizer
        from edgedistill.teach.own_text import Answering, prompts_of, stops_of

        context, teach = self.context, self.context.recipe.teach
        tokenizer = load_tokenizer(context.given_teacher)
        stops = stops_of(tokenizer, teach, context.facts.name, context.facts.system)
        prompts = prompts_of(examples, seq_len)
        if not prompts:
            raise RunError(
                f"{context.facts.name}: no text of the training is long enough to be asked again in a round; "
                "raise teach.max_answer_tokens, or leave on_policy out"
            )
        longest = min(teach.max_answer_tokens, seq_len)
        return Answering(prompts, settings, tokens, longest, stops, teach.parallel, context.cores)

    def _scored(
        self, text: "Sequence[Example]", top_k: int, answering: "Answering", done: Finished
    ) -> "Sequence[Example]":
        from edgedistill.teach.own_text import score
        from edgedistill.teach.writers import LlamaWriter

        context = self.context
        file = context.given_teacher if context.own_file else done.folder(TEACHER_FILE) / GGUF_NAME
        with LlamaWriter(file, context.cores, answering.room + 1, answering.parallel) as teacher:
            return score(teacher, text, top_k)
