"""How an on-policy round is made: the model in training is written as a GGUF file, which answers in llama.cpp, and its
teacher adds what it thinks of that.

In float the student's teacher reads the answers. On the grid it is the packed file that answers, as it would ship, and
the float student that says what it would have thought.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.config.on_policy import OnPolicy
from edgedistill.config.phase import Phase
from edgedistill.errors import RunError
from edgedistill.export import GGUF_NAME
from edgedistill.models.hf_folder import read_shape
from edgedistill.pipeline.context import Context
from edgedistill.pipeline.files import TEACHER_FILE
from edgedistill.pipeline.stage import Finished

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgedistill.data.example import Example
    from edgedistill.quant.checkpoint import GridCheckpoint
    from edgedistill.teach.own_text import Answering

SCRATCH = "own-text"  # the model in training as a file, while it writes


@dataclass(frozen=True)
class OnPolicyRounds:
    """The rounds of one training.

    Attributes:
        context: the run's.
        settings: the recipe's; None where the training has none.
        compares: whether its loss compares with the teacher's likeliest tokens.
        seq_len, step_tokens: of the training.
    """

    context: Context
    settings: OnPolicy | None
    compares: bool
    seq_len: int
    step_tokens: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """Stages that the training reads for them: the file with which the teacher scores."""
        scores = self.settings is not None and self.compares
        return (TEACHER_FILE,) if scores and not self.context.own_file else ()

    def in_float(
        self, student: Path, sources: "Mapping[str, Sequence[Example]]", folder: Path, done: Finished
    ) -> "Callable[[PreTrainedModel, int], Sequence[Example]] | None":
        """Who writes the rounds of a phase: the student as it is, by a seed; None where there are none.

        Args:
            student: a folder with its tokenizer.
            sources: the training text, whose prompts are asked.
            folder: the stage's.
            done: the stages before it.
        """
        if self.settings is None:
            return None
        answering = self._answering([example for examples in sources.values() for example in examples], student)

        def write(model: "PreTrainedModel", seed: int) -> "Sequence[Example]":
            from edgedistill.export.gguf.write import float_checkpoint

            state = model.state_dict()
            tensors = {tensor.name: state[tensor.name].detach() for tensor in read_shape(student).tensors()}
            text = self._written(float_checkpoint(tensors, "f16"), student, answering, seed, folder)
            return self._scored(text, answering, done)

        return write

    def on_grid(
        self, student: Path, examples: "Sequence[Example]", folder: Path, done: Finished
    ) -> "Callable[[GridCheckpoint, int], Sequence[Example]] | None":
        """The same of a training on the grid, whose checkpoint is packed as it would ship.

        Args:
            student: the float student's folder.
            examples: the training text, whose prompts are asked.
            folder: the stage's.
            done: the stages before it.
        """
        if self.settings is None:
            return None
        answering = self._answering(examples, student)

        def write(checkpoint: "GridCheckpoint", seed: int) -> "Sequence[Example]":
            from edgedistill.teach.capture import CaptureSettings, captured

            text = self._scored(self._written(checkpoint, student, answering, seed, folder), answering, done)
            keep = ("ids", "log_probs") if self.compares else ()
            return captured(student, text, CaptureSettings(self.seq_len, "float32", keep, self.context.device))

        return write

    def _answering(self, examples: "Sequence[Example]", student: Path) -> "Answering":
        from edgedistill.models.tokenizer import load_tokenizer
        from edgedistill.teach.own_text import Answering, prompts_of, stops_of

        assert self.settings is not None
        context, teach = self.context, self.context.recipe.teach
        tokenizer = load_tokenizer(student)
        stops = stops_of(tokenizer, teach, context.origin.name, context.facts.system)
        prompts = prompts_of(examples, self.seq_len)
        if not prompts:
            raise RunError(
                f"{context.facts.name}: no text of the training is long enough to be asked again in a round; "
                "raise teach.max_answer_tokens, or leave on_policy out"
            )
        longest, tokens = min(teach.max_answer_tokens, self.seq_len), self.settings.round_tokens(self.step_tokens)
        return Answering(prompts, self.settings, tokens, longest, stops, teach.parallel)

    def _written(
        self, checkpoint: "GridCheckpoint", student: Path, answering: "Answering", seed: int, folder: Path
    ) -> "Sequence[Example]":
        """What a checkpoint's file answers."""
        from edgedistill.export.gguf.write import write_gguf
        from edgedistill.quant.rounded import FLOATS
        from edgedistill.teach.own_text import write_own_text
        from edgedistill.teach.writers import LlamaWriter, open_writer
        from edgedistill.train.checkpoints import FOLDER as CHECKPOINTS

        # Among the checkpoints, which go when the training is whole.
        scratch = folder / CHECKPOINTS / SCRATCH
        scratch.mkdir(parents=True, exist_ok=True)
        file, room, parallel = scratch / GGUF_NAME, answering.room, answering.parallel
        write_gguf(checkpoint, student, read_shape(student), file, {})
        if checkpoint.mix in FLOATS:
            writer = open_writer(file, self.context.cores, room, parallel, scratch)
        else:  # with the activations in 8 bits that it will run with
            writer = LlamaWriter(file, self.context.cores, room, parallel)
        with writer:
            text = write_own_text(writer, answering, seed)
        file.unlink()
        return text

    def _scored(self, text: "Sequence[Example]", answering: "Answering", done: Finished) -> "Sequence[Example]":
        """The text with the teacher's likeliest tokens, where the loss looks at them."""
        from edgedistill.teach.own_text import own_kept
        from edgedistill.teach.writers import LlamaWriter, read_signals

        context = self.context
        done.progress.note(f"the model in training wrote {len(text)} answers, {own_kept(text)} tokens, to learn from")
        if not self.compares:
            return text
        file = context.given_teacher if context.own_file else done.folder(TEACHER_FILE) / GGUF_NAME
        with LlamaWriter(file, context.cores, answering.room + 1, answering.parallel) as teacher:
            return read_signals(teacher, text, context.recipe.teacher.top_k)


def rounds_of(context: Context, phase: Phase) -> OnPolicyRounds:
    """The rounds of a phase in float."""
    return OnPolicyRounds(context, phase.on_policy, phase.compares, phase.seq_len, phase.step_tokens)
