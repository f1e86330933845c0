"""What the build takes on this machine: tokens, bytes of memory and disk, seconds. Estimates, each with its assumption.

A forward pass costs 2 and a training step 6 floating point operations a parameter and token (Kaplan et al. 2020,
section 2.1).
"""

from dataclasses import asdict, dataclass
from typing import Any

from edgedistill.config.recipe import Recipe
from edgedistill.config.recover import CURVATURE_BYTES, MEASURED
from edgedistill.facts import ModelFacts, ModelShape
from edgedistill.machine import compute_of
from edgedistill.mixes import groups_of, measured_once, mix_bytes

# A core with AVX-512 or AMX in bfloat16 reached 90 GFLOP/s in training and 120 in forward passes; older ones reach half
# of that.
TRAIN_FLOPS_PER_CORE = {"bfloat16": 60e9, "float32": 30e9}
# llama.cpp writing 16 to 32 answers at a time.
WRITE_FLOPS_PER_CORE = 15e9
# Of what the teacher writes, loops, duplicates and cut-off answers are dropped.
KEPT_SHARE = 0.6
# Python with torch and transformers loaded.
BASE_RAM_BYTES = 900 * 2**20
# Weights and gradients in float32, AdamW's two moments in bfloat16, and a bfloat16 copy for the products.
TRAIN_BYTES_PER_PARAMETER = 14
# The model in float32, the codes of a mix, and room for the largest tensor while it is rounded.
UNTRAINED_BYTES_PER_PARAMETER = 7
# Weights a second that a fit by curvature sets on the grid, whatever the number of cores: SmolLM2-135M's 134 million
# took 40 s.
FITTED_PER_S = 2e6
# The same of the shorter fit that choices between grids are made by, summed over the choices.
QUICKLY_FITTED_PER_S = 4e6
# Values kept for the backward pass, in widths a token and layer, at 2 bytes: 17 in a llama whose MLP is 2.7 widths
# wide.
ACTIVATION_WIDTHS = 18
# Of a question of openbookqa with its options, and of a request with its template and the beginning of an answer, in
# SmolLM2's tokens.
QUESTION_TOKENS, REQUEST_TOKENS = 24, 64
# A group of tensors is measured from its layer on: half of the layers on average, and the output layer.
SENSITIVITY_SHARE = 0.6


@dataclass(frozen=True)
class BuildPlan:
    """The build on this machine."""

    tokens: dict[str, int]  # stage -> tokens
    seconds_by_stage: dict[str, float]
    seconds: float
    ram_bytes: int
    disk_bytes: int
    cores: int
    assumption: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def plan_build(
    recipe: Recipe, facts: ModelFacts, student: ModelShape, cores: int, recovering: bool = True
) -> BuildPlan:
    """Estimate the build of a student on a number of cores; unless `recovering`, it is the model as it is, rounded and
    measured.
    """
    if not recovering:
        return _plan_rounding(recipe, facts, student, cores)
    teacher_size, size = facts.shape.parameters, student.parameters
    written = recipe.teach.tokens + recipe.teach.free_tokens
    taught = written + recipe.teach.text_tokens
    recovered = {mix: recipe.recover.tokens_of(mix) for mix in recipe.mixes}
    judged = (1 + bool(recipe.teach.tokens) + bool(recipe.teach.free_tokens)) * recipe.measure.tokens
    asked = _asked_tokens(recipe, facts)
    distilled = 0 if recipe.student.as_is else recipe.distill.tokens
    fitted = [mix for mix in map(recipe.mix, recipe.mixes) if mix.unfitted]
    once = measured_once(fitted) if fitted else None
    foretold = recipe.recover.fit == "curvature"  # by fits alone; what was chosen is judged
    groups = groups_of(student, once) if once else ()
    measured = once.tokens * (1 if foretold else sum(len(group.formats) for group in groups)) if once else 0
    chosen_between = sum(len(group.formats) * sum(t.rows * t.cols for t in group.tensors) for group in groups)
    # The float student reads the text once for all mixes, and what its fit measures there and back.
    fit, there_and_back = recipe.recover.fit, min(taught, recipe.recover.fit_tokens)
    tokens = {
        "teach": taught,
        **({"distill": distilled} if distilled else {}),
        "capture": taught,
        **({fit: there_and_back} if fit in MEASURED else {}),
        **({"sensitivity": measured} if fitted else {}),
        **{f"recover {mix}": n for mix, n in recovered.items()},
        "measure": judged,
    }

    validated = {mix: recipe.recover.validation_of(n).all_tokens for mix, n in recovered.items()}
    distill_flops = TRAIN_FLOPS_PER_CORE[compute_of(recipe.distill.compute)] * cores
    recover_flops = TRAIN_FLOPS_PER_CORE[compute_of(recipe.recover.compute)] * cores
    write_flops = WRITE_FLOPS_PER_CORE * cores
    float_flops = TRAIN_FLOPS_PER_CORE["float32"] * cores
    distill_checks = recipe.distill.validation_of(distilled).all_tokens
    fitting = 1 / FITTED_PER_S if foretold else 0
    seconds = {
        # Without a student to distill, what the teacher thinks of the prose isn't asked.
        "teach": 2
        * teacher_size
        * (written / KEPT_SHARE / write_flops + (recipe.teach.text_tokens if distilled else 0) / distill_flops),
        **({"distill": (6 * distilled + 2 * distill_checks) * size / distill_flops} if distilled else {}),
        "capture": 2 * size * taught / float_flops,
        **({fit: 6 * size * there_and_back / recover_flops} if fit in MEASURED else {}),
        **(
            {
                "sensitivity": 2 * size * SENSITIVITY_SHARE * measured / (TRAIN_FLOPS_PER_CORE["float32"] * cores)
                + (chosen_between / QUICKLY_FITTED_PER_S if foretold else 0)
            }
            if fitted
            else {}
        ),
        **{
            f"recover {mix}": (6 * n / recover_flops + 2 * validated[mix] / float_flops + fitting) * size
            for mix, n in recovered.items()
        },
        # The float student and the teacher, and for each mix plain rounding and the recovered weights in each export.
        "measure": 2 * size * (judged + asked) * (2 + len(recipe.mixes) * (1 + len(recipe.export))) / write_flops,
    }
    return BuildPlan(
        tokens,
        seconds,
        sum(seconds.values()),
        _ram(recipe, facts, student),
        _disk(recipe, student, taught),
        cores,
        f"{cores} cores at {distill_flops / cores / 1e9:.0f} GFLOP/s in training and "
        f"{WRITE_FLOPS_PER_CORE / 1e9:.0f} in writing, {KEPT_SHARE:.0%} of the teacher's text kept",
    )


def _plan_rounding(recipe: Recipe, facts: ModelFacts, student: ModelShape, cores: int) -> BuildPlan:
    """Files that are rounded and measured: a few chats are written to judge on, nothing is trained."""
    write_flops, judged = (
        WRITE_FLOPS_PER_CORE * cores,
        recipe.measure.tokens * (2 if recipe.teach.style == "chat" else 1),
    )
    files = 2 + len(recipe.mixes)
    seconds = {"measure": 2 * student.parameters * (judged + _asked_tokens(recipe, facts)) * files / write_flops}
    disk = (
        8 * student.parameters
        + _reference_bytes(recipe, student)
        + sum(2 * mix_bytes(student, recipe.mix(m)) for m in recipe.mixes)
    )
    ram = BASE_RAM_BYTES + UNTRAINED_BYTES_PER_PARAMETER * student.parameters
    return BuildPlan(
        {"measure": judged},
        seconds,
        sum(seconds.values()),
        ram,
        disk,
        cores,
        f"{cores} cores at {WRITE_FLOPS_PER_CORE / 1e9:.0f} GFLOP/s in writing",
    )


def _asked_tokens(recipe: Recipe, facts: ModelFacts) -> int:
    """Tokens of questions and requests that each file reads and writes."""
    wanted = recipe.measure
    requests = 2 * wanted.refusal_items * REQUEST_TOKENS if facts.tokenizer.has_chat_template else 0
    return len(wanted.tasks) * wanted.task_items * QUESTION_TOKENS + requests


def _reference_bytes(recipe: Recipe, student: ModelShape) -> int:
    """What the float student makes of the judges, kept for the next file: hidden states and the output matrix in
    float32.
    """
    return 4 * student.width * (3 * recipe.measure.tokens + student.vocab)


def _ram(recipe: Recipe, facts: ModelFacts, student: ModelShape) -> int:
    """The larger of teaching and training; distilling loads the teacher in float32 to cut the student from it."""
    answer = recipe.teach.max_prompt_tokens + recipe.teach.max_answer_tokens
    teach = facts.weight_bytes + facts.shape.kv_bytes(recipe.teach.parallel * answer)
    whole = recipe.student.as_is
    at_once = recipe.recover.batch_tokens if whole else max(recipe.distill.batch_tokens, recipe.recover.batch_tokens)
    activations = at_once * student.layers * student.width * ACTIVATION_WIDTHS * 2
    train = TRAIN_BYTES_PER_PARAMETER * student.parameters + (0 if whole else 4 * facts.shape.parameters) + activations
    measure = 4 * student.parameters + min(CURVATURE_BYTES, 2 * _curvature_bytes(recipe, student)) + activations
    return BASE_RAM_BYTES + max(teach, train, measure, _choosing_bytes(recipe, student))


def _choosing_bytes(recipe: Recipe, student: ModelShape) -> int:
    """Grids are chosen by trying them: weights twice in float32, and of the text the float model's logits and every
    layer's inputs.
    """
    tokens = max((mix.tokens for mix in map(recipe.mix, recipe.mixes) if mix.unfitted), default=0)
    return (8 * student.parameters + 4 * tokens * (student.vocab + student.layers * student.width)) if tokens else 0


def _curvature_bytes(recipe: Recipe, student: ModelShape) -> int:
    """Of a matrix over the inputs of each linear layer in float16, as they are kept."""
    if recipe.recover.fit != "curvature":
        return 0
    return sum(2 * tensor.cols**2 for tensor in student.tensors() if tensor.kind == "linear")


def _disk(recipe: Recipe, student: ModelShape, taught: int) -> int:
    """Signals; the float student and its GGUF; two checkpoints of a training; of each mix its grid, its rounding,
    exports, bundle.
    """
    signals = taught * ((0 if recipe.student.as_is else recipe.teacher.top_k * 6) + student.width * 2)
    checkpoints = 2 * 8 * student.parameters  # weights, and moments of two bytes
    mixes = sum(mix_bytes(student, recipe.mix(name)) for name in recipe.mixes) * (2 + 2 * len(recipe.export))
    return (
        signals
        + _curvature_bytes(recipe, student)
        + 8 * student.parameters
        + checkpoints
        + mixes
        + _reference_bytes(recipe, student)
    )
