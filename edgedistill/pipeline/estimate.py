"""What each stage takes on this machine: tokens, seconds, bytes of memory and of disk. Estimates, each with its
assumption.

A forward pass costs 2 and a training step 6 floating point operations a parameter and token (Kaplan et al. 2020,
section 2.1). The plan's totals are the sum of the seconds and of the disk, and the highest memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from edgedistill.config.block_terms import RelationsTerm
from edgedistill.config.phase import Phase
from edgedistill.config.recover import CURVATURE_BYTES, Recover
from edgedistill.config.students.same import SameStudent
from edgedistill.config.students.sibling import RunStudent, SiblingStudent
from edgedistill.config.students.width import Narrower
from edgedistill.facts import ModelShape
from edgedistill.machine import compute_of
from edgedistill.mixes import Group, Mix, mix_bytes
from edgedistill.pipeline.block_bytes import block_bytes
from edgedistill.pipeline.context import Context
from edgedistill.pipeline.stage import Stage
from edgedistill.pipeline.stage_memory import (
    BASE_RAM_BYTES,
    BY_LAYER,
    COPIED,
    FLOAT_FILE,
    LLAMA_BYTES,
    ONE_HEAD,
    PROCESS_BYTES,
    READ_BACK,
    ROUNDED,
    a_tensor_at_a_time,
    activations,
    choosing,
    curvature_is_layered,
    fit_alone,
    kept_curvature,
    layered_curvature,
    of_a_layer,
    states,
    table,
)
from edgedistill.pipeline.text_tokens import TextTokens
from edgedistill.plan.types import BuildPlan, StageEstimate

# A core with AVX-512 reached 180 GFLOP/s in training in bfloat16 and 75 in float32, older ones half of it.
TRAIN_FLOPS_PER_CORE = {"bfloat16": 100e9, "float32": 45e9}
# llama.cpp writing 16 to 32 answers at a time.
WRITE_FLOPS_PER_CORE = 15e9
# llama.cpp reading a text, as judging does; a core with AVX-512 reached 100 GFLOP/s.
READ_FLOPS_PER_CORE = 40e9
# Of what the teacher writes, loops, duplicates and cut-off answers are dropped.
KEPT_SHARE = 0.6
# Weights and gradients in float32, AdamW's two moments in bfloat16, and a bfloat16 copy for the products.
TRAIN_BYTES_PER_PARAMETER = 14
# The model in float32, the codes of a mix, and room for the largest tensor while it is rounded.
UNTRAINED_BYTES_PER_PARAMETER = 7
# Tokens whose states are captured at once (teach/capture.py).
PART_TOKENS = 32_768
WHOLE = (SameStudent, SiblingStudent, RunStudent)  # kinds of students that are a whole model, not cut
# Weights a second that a fit by curvature sets on the grid, whatever the number of cores (SmolLM2-135M: 40 s).
FITTED_PER_S = 2e6
# The same of the shorter fit that choices between grids are made by, summed over the choices.
QUICKLY_FITTED_PER_S = 4e6
# Tokens on which channels and heads are ranked (models/students/width.py).
RANKED_TOKENS = 8192
# A group of tensors is measured from its layer on: half of the layers on average, and the output layer.
SENSITIVITY_SHARE = 0.6
TOKENIZED_PER_S = 20_000  # tokens of chats rendered and tokenized: a template's rendering takes most of the time
START_S = 4.0  # a model loaded, a runtime started
PARAMETERS_PER_S = {"write": 30e6, "round": 12e6}  # of a model written as it is, or rounded and written
TRIAL_TOKENS_SHARE = 4  # a token that is decoded alone costs so many times one of a prompt
SAMPLED_SHARE = 1 / 8  # of a tensor's rows, on which the rival's grids are tried
COMPARED = 3  # mixes of about a size: the one that was chosen and built-in ones


RELATION_COPIES = 6  # of a row of a relation in float32, kept for backward: scores, logarithms and probabilities


def plan_build(stages: Sequence[Stage], context: Context) -> BuildPlan:
    """The build as the sum of its stages."""
    train_flops = TRAIN_FLOPS_PER_CORE[compute_of(context.recipe.distill.compute)] / 1e9
    return BuildPlan(
        {stage.name: stage.estimate for stage in stages},
        context.cores,
        f"{context.cores} cores at {train_flops:.0f} GFLOP/s each in training and {WRITE_FLOPS_PER_CORE / 1e9:.0f} in "
        f"writing, {KEPT_SHARE:.0%} of the teacher's text kept",
    )


@dataclass(frozen=True)
class Estimates:
    """The estimates of one run's stages."""

    context: Context

    @cached_property
    def text(self) -> TextTokens:
        """Tokens of the run's texts."""
        return TextTokens(self.context)

    @cached_property
    def size(self) -> int:
        """Parameters of the student."""
        return self.context.shape.parameters

    @cached_property
    def teacher_size(self) -> int:
        """Parameters of the teacher."""
        return self.context.facts.shape.parameters

    def written(self) -> StageEstimate:
        """A float model written to a file."""
        ram = a_tensor_at_a_time(self.context.shape, FLOAT_FILE)
        seconds = START_S + self.size / PARAMETERS_PER_S["write"]
        return StageEstimate(0, seconds, ram, 2 * self.size)

    def student(self) -> StageEstimate:
        """The initial student's folder: a whole model in its own types, a tensor at a time; any other in float32, of a
        teacher that is in memory once.
        """
        if isinstance(self.context.recipe.student, WHOLE):
            origin = self.context.origin
            stored = origin.weight_bytes if origin.kind == "hf" else 4 * self.size
            ram = a_tensor_at_a_time(self.context.shape, COPIED / 2 * stored / self.size)
            return StageEstimate(0, START_S + self.size / PARAMETERS_PER_S["write"], ram, stored)
        ram = BASE_RAM_BYTES + 4 * self.context.origin.shape.parameters
        if isinstance(self.context.recipe.student, Narrower):
            ram += 4 * self.size  # rows and columns are copied out
        return StageEstimate(0, START_S + self.size / PARAMETERS_PER_S["write"] + self._ranking_s(), ram, 4 * self.size)

    def _ranking_s(self) -> float:
        """Seconds in which a model reads the text that decides what of it stays, where its channels are ranked."""
        student = self.context.recipe.student
        if not isinstance(student, Narrower):
            return 0.0
        passes = 3 if student.importance == "gradient" else 1  # forward, and twice that back
        size = self.context.origin.shape.parameters
        return 2 * passes * size * RANKED_TOKENS / self._flops(self.context.recipe.distill.compute)

    def teach(self) -> StageEstimate:
        """Text written and read by the teacher, and its log-probabilities of it where a student is distilled."""
        context = self.context
        teach, top_k = context.recipe.teach, context.recipe.top_k
        written_tokens, read_tokens = self.text.answers + teach.free_tokens, teach.text_tokens
        if teach.answers == "own":  # they are there already, and read with their prompts where a student is distilled
            written_tokens, read_tokens = teach.free_tokens, teach.text_tokens + self.text.conversations
        written_tokens += round(teach.new_tokens * self.text.new_share)
        written = written_tokens / KEPT_SHARE / self._write_flops
        read = read_tokens / self._flops(context.recipe.distill.compute) if top_k else 0.0
        answer = teach.max_prompt_tokens + teach.max_answer_tokens
        ram = BASE_RAM_BYTES + context.facts.weight_bytes + context.facts.shape.kv_bytes(teach.parallel * answer)
        if not written_tokens and not top_k:  # no model is asked
            ram = PROCESS_BYTES
        seconds = START_S + 2 * self.teacher_size * (written + read)
        return StageEstimate(self.text.taught, seconds, ram, self.text.taught * (top_k * 6 + 8))

    def student_text(self) -> StageEstimate:
        """The training text in the student's own ids."""
        tokens = self.text.taught
        seconds = START_S + tokens / TOKENIZED_PER_S
        return StageEstimate(tokens, seconds, BASE_RAM_BYTES, tokens * (self.context.recipe.top_k * 6 + 8))

    def held_out(self) -> StageEstimate:
        """Chats that are written to judge on."""
        tokens = self.context.recipe.measure.tokens
        seconds = START_S + 2 * self.teacher_size * tokens / KEPT_SHARE / self._write_flops
        return StageEstimate(tokens, seconds, self.teach().ram_bytes, 8 * tokens)

    def labels(self) -> StageEstimate:
        """Labelled answers read from a file."""
        tokens = self.text.conversations
        return StageEstimate(tokens, START_S + tokens / TOKENIZED_PER_S, BASE_RAM_BYTES, 8 * tokens)

    def specialise(self, settings: Phase) -> StageEstimate:
        """The teacher trained on labelled answers."""
        return self._trained(settings, self.context.facts.shape)

    def distill(self, settings: Phase) -> StageEstimate:
        """The student trained in float; beside it in memory, what it is compared with of the teacher's blocks."""
        trained = self._trained(settings, self.context.shape)
        trained = self._with_rounds(trained, settings, settings.tokens, 2 * self.size)
        if not settings.block_terms:
            return trained
        taken, relations = block_bytes(self.context), self._relation_bytes(settings)
        stored = taken.stored and settings.stored_blocks
        beside = taken.text if stored else taken.live
        forward = 0.0 if stored else 2 * self.teacher_size * settings.tokens / self._flops(settings.compute)
        return replace(
            trained, seconds=trained.seconds + forward, ram_bytes=trained.ram_bytes + beside + sum(relations)
        )

    def _with_rounds(
        self, trained: StageEstimate, settings: Phase | Recover, tokens: int, file_bytes: int
    ) -> StageEstimate:
        """A training of so many tokens and its on-policy rounds: the model as a file of so many bytes that writes, then
        the teacher's that reads.
        """
        if settings.on_policy is None:
            return trained
        rounds = settings.on_policy.rounds(settings.steps_of(tokens))
        written = rounds * settings.on_policy.round_tokens(settings.step_tokens)
        seconds = rounds * (2 * START_S + self.size / PARAMETERS_PER_S["write"])
        seconds += 2 * written * self.size / self._write_flops
        if settings.compares:
            seconds += 2 * written * self.teacher_size / (READ_FLOPS_PER_CORE * self.context.cores)
            file_bytes = max(file_bytes, self.context.facts.weight_bytes)
        return replace(
            trained,
            tokens=trained.tokens + written,
            seconds=trained.seconds + seconds,
            ram_bytes=trained.ram_bytes + file_bytes,
            disk_bytes=trained.disk_bytes + file_bytes,
        )

    def blocks(self) -> StageEstimate:
        """The teacher's blocks, read once over the training text."""
        phase = next(phase for phase in self.context.recipe.student_phases if phase.stored_blocks)
        seconds = START_S + 2 * self.teacher_size * self.text.taught / self._flops(phase.compute)
        shape = self.context.facts.shape
        ram = BASE_RAM_BYTES + 4 * self.teacher_size + activations(shape, 2 * phase.seq_len)
        return StageEstimate(self.text.taught, seconds, ram, block_bytes(self.context).text)

    def _relation_bytes(self, phase: Phase) -> list[int]:
        """Of each term, the rows of a step's relations that are kept for backward."""
        rows = phase.batch_tokens * phase.seq_len * 4 * RELATION_COPIES
        heads = self.context.shape.heads
        relations = [term for term in phase.block_terms if isinstance(term, RelationsTerm)]
        return [rows * (term.heads or heads) * len(term.relations) for term in relations]

    def _trained(self, settings: Phase, shape: ModelShape) -> StageEstimate:
        """A model trained in float; two checkpoints of weights and of moments of two bytes."""
        # Validations are forward passes.
        work = 6 * settings.tokens + 2 * settings.validation_of(settings.tokens).all_tokens
        seconds = START_S + shape.parameters * work / self._flops(settings.compute)
        beside = BASE_RAM_BYTES + activations(shape, settings.batch_tokens)
        ram = beside + TRAIN_BYTES_PER_PARAMETER * shape.parameters
        if settings.adapter is not None:  # the frozen weights in float32, as they are read and written
            trained = settings.adapter.parameters(shape)
            ram = beside + 4 * shape.parameters + TRAIN_BYTES_PER_PARAMETER * trained
            return StageEstimate(settings.tokens, seconds, ram, 4 * shape.parameters + 2 * 8 * trained)
        return StageEstimate(settings.tokens, seconds, ram, (4 + 2 * 8) * shape.parameters)

    def capture(self) -> StageEstimate:
        """The float student's last hidden states of the text."""
        tokens = self.text.taught
        seconds = START_S + 2 * self.size * tokens / self._flops("float32")
        shape, recover = self.context.shape, self.context.recipe.recover
        at_once = min(tokens, PART_TOKENS)
        ram = PROCESS_BYTES + max(COPIED * table(shape), of_a_layer(shape, 2 * recover.seq_len))
        ram += 2 * states(shape, at_once)
        return StageEstimate(tokens, seconds, ram, 2 * shape.width * tokens)

    def costs(self) -> StageEstimate:
        """What errors cost: forward and back over the text, once for as many layers as fit in memory."""
        recover, shape = self.context.recipe.recover, self.context.shape
        if recover.fit == "curvature" and curvature_is_layered(shape):
            return self._layered_costs()
        tokens = min(self.text.taught, recover.fit_tokens)
        seconds = START_S + 6 * self.size * tokens / self._flops(recover.compute)
        matrices = self._kept_curvature()
        ram = BASE_RAM_BYTES + 4 * self.size + min(CURVATURE_BYTES, 3 * matrices)
        return StageEstimate(tokens, seconds, ram + activations(self.context.shape, 2 * recover.seq_len), matrices)

    def _layered_costs(self) -> StageEstimate:
        """The same a layer at a time: forward, then forward and back, with the layers' inputs on the disk."""
        recover, shape = self.context.recipe.recover, self.context.shape
        tokens = min(self.text.taught, recover.fit_tokens)
        batch = 2 * recover.seq_len
        seconds = START_S + 8 * self.size * tokens / self._flops(recover.compute)
        ram = layered_curvature(shape, tokens, batch)
        kept = self._kept_curvature() // 2
        # Each layer's inputs, and the newest gradients beside those before them.
        scratch = max(0, (shape.layers + 2) * states(shape, tokens) - kept)
        return StageEstimate(tokens, seconds, ram, kept, scratch)

    def _kept_curvature(self) -> int:
        """Bytes of the curvature's matrices as they are kept; 0 where none is measured."""
        return kept_curvature(self.context.shape) if self.context.recipe.recover.fit == "curvature" else 0

    def sensitivity(self, groups: Sequence[Group], tokens: int) -> StageEstimate:
        """What each grid costs each group of tensors: predicted by curvature, or measured by KL."""
        weights = sum(len(group.formats) * sum(t.rows * t.cols for t in group.tensors) for group in groups)
        if self.context.recipe.recover.fit == "curvature":
            return StageEstimate(
                tokens, START_S + weights / QUICKLY_FITTED_PER_S, choosing(self.context.shape, tokens), 10**6
            )
        read = tokens * sum(len(group.formats) for group in groups)
        seconds = START_S + 2 * self.size * SENSITIVITY_SHARE * read / self._flops("float32")
        return StageEstimate(read, seconds, choosing(self.context.shape, tokens), 10**6)

    def fit(self, mix: Mix) -> StageEstimate:
        """The grids of a mix chosen, and the choice compared with mixes of about its size."""
        seconds = START_S + COMPARED * self.size / QUICKLY_FITTED_PER_S
        return StageEstimate(mix.tokens, seconds, choosing(self.context.shape, mix.tokens), 10**6)

    def rival(self, groups: Sequence[Group], weight_bytes: int) -> StageEstimate:
        """Grids chosen by a sample of rows, and all weights fitted to them quickly; of a context with the teacher as
        the student.
        """
        tried = SAMPLED_SHARE * sum(len(group.formats) * sum(t.size for t in group.tensors) for group in groups)
        seconds = START_S + (tried + self.size) / QUICKLY_FITTED_PER_S
        ram = BASE_RAM_BYTES + UNTRAINED_BYTES_PER_PARAMETER * self.size
        return StageEstimate(0, seconds, ram, weight_bytes)

    def rounded(self, mix: Mix) -> StageEstimate:
        """A mix rounded and written."""
        seconds = START_S + self.size / PARAMETERS_PER_S["round"]
        ram = a_tensor_at_a_time(self.context.shape, ROUNDED)
        return StageEstimate(0, seconds, ram, mix_bytes(self.context.shape, mix))

    def recover(self, mix: Mix) -> StageEstimate:
        """A mix fitted and trained on its grid."""
        settings = self.context.recipe.recover
        tokens = settings.tokens_of(mix.name)
        fitting = 1 / FITTED_PER_S if settings.fit == "curvature" else 0.0
        validation = 2 * settings.validation_of(tokens).all_tokens / self._flops("float32")
        seconds = START_S + (6 * tokens / self._flops(settings.compute) + validation + fitting) * self.size
        seconds += self.size / PARAMETERS_PER_S["round"]
        ram = (
            BASE_RAM_BYTES
            + TRAIN_BYTES_PER_PARAMETER * self.size
            + activations(self.context.shape, settings.batch_tokens)
        )
        packed = mix_bytes(self.context.shape, mix)
        if not tokens:
            ram = fit_alone(self.context.shape, packed, settings.validation_of(tokens).tokens, settings.seq_len)
            return StageEstimate(0, seconds, ram, packed, packed)
        estimate = self._with_rounds(StageEstimate(tokens, seconds, ram, 2 * packed), settings, tokens, packed)
        # The float student reads what was written, beside the one on the grid.
        beside = 4 * self.size if settings.on_policy else 0
        return replace(estimate, ram_bytes=estimate.ram_bytes + beside)

    def exported(self, mix: Mix) -> StageEstimate:
        """A packed file, which the bundle has as a hard link."""
        packed = mix_bytes(self.context.shape, mix)
        ram = a_tensor_at_a_time(self.context.shape, READ_BACK) + packed
        return StageEstimate(0, self.written().seconds, ram, packed)

    def judges(self) -> StageEstimate:
        """Held-out texts put aside."""
        return StageEstimate(0, START_S, PROCESS_BYTES, 8 * self.text.judged)

    def reference(self, shape: ModelShape) -> StageEstimate:
        """A float model's view of the judges: hidden states and the output matrix, in float32."""
        tokens = self.text.judged
        seconds = START_S + 2 * shape.parameters * tokens / self._flops("float32")
        of_model = max(ONE_HEAD * table(shape), of_a_layer(shape, 256))
        ram = PROCESS_BYTES + of_model + 2 * states(shape, tokens)
        return StageEstimate(tokens, seconds, ram, 4 * shape.width * (tokens + shape.vocab))

    def row(self, file_bytes: int) -> StageEstimate:
        """One file of so many bytes judged and asked."""
        read, written = self.text.task
        tokens = self.text.judged + self.text.questions + read
        seconds = START_S + 2 * self.size * tokens / (READ_FLOPS_PER_CORE * self.context.cores)
        seconds += 2 * self.size * written / self._write_flops
        return StageEstimate(tokens + written, seconds, self._running_bytes(file_bytes), 10**5)

    def _running_bytes(self, file_bytes: int) -> int:
        """A file in its runtime, beside this process with the float models' output matrices."""
        context = self.context
        heads = table(context.shape) + (0 if context.as_is else table(context.facts.shape))
        cache = context.shape.kv_bytes(context.recipe.measure.context)
        return PROCESS_BYTES + LLAMA_BYTES + 4 * heads + file_bytes + cache

    def layers(self) -> StageEstimate:
        """A mix's errors by layer."""
        seconds = self.size / PARAMETERS_PER_S["write"]
        return StageEstimate(0, seconds, a_tensor_at_a_time(self.context.shape, BY_LAYER), 10**5)

    def speeds(self, files: int) -> StageEstimate:
        """All files timed in turn."""
        measure = self.context.recipe.measure
        tokens = measure.prefill + TRIAL_TOKENS_SHARE * measure.decode
        trial = START_S + 2 * self.size * tokens / self._write_flops
        ram = self._running_bytes(2 * self.size)
        return StageEstimate(0, measure.repetitions * files * trial, ram, 10**5)

    def papers(self) -> StageEstimate:
        """Rows joined, or a report written."""
        return StageEstimate(0, 1.0, PROCESS_BYTES, 10**6)

    @property
    def _write_flops(self) -> float:
        return WRITE_FLOPS_PER_CORE * self.context.cores

    def _flops(self, compute: str) -> float:
        return TRAIN_FLOPS_PER_CORE[compute_of(compute)] * self.context.cores
