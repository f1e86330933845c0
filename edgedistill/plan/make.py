"""From recipe, target and the teacher's facts to a plan; everything that would fail later is checked here, in
seconds.
"""

from dataclasses import replace
from pathlib import Path

from edgedistill.config.recipe import Recipe
from edgedistill.config.students.sizes import block_of
from edgedistill.config.target import Target
from edgedistill.config.tasks import read_questions
from edgedistill.config.teach import OWN_PROMPTS
from edgedistill.config.text_file import check_text
from edgedistill.errors import InputError
from edgedistill.facts import ModelFacts, ModelShape, Start, check_onnx
from edgedistill.mixes import MIXES, Mix, assign_formats, storable
from edgedistill.plan.adapter import check_adapters
from edgedistill.plan.blocks import check_blocks
from edgedistill.plan.device import kv_tokens, plan_mix, rejected
from edgedistill.plan.general import check_general
from edgedistill.plan.start import context_of, learnable
from edgedistill.plan.types import BuildMachine, BuildPlan, Plan


def decide(
    recipe: Recipe, facts: ModelFacts, recovering: bool = True, start: Start | None = None
) -> tuple[Recipe, ModelShape]:
    """The recipe with what it leaves open decided, and the student's shape.

    Args:
        recipe: what to build.
        facts: the teacher.
        recovering: False where each mix is only rounded, as `compare` does unless told otherwise.
        start: the model that the student starts from; None where that is the teacher.
    Raises:
        InputError: teacher and recipe don't go together, or a file that the recipe names is wrong.
    """
    origin = facts if start is None else start.facts
    recipe = recipe.decided(facts.tokenizer.has_chat_template and origin.tokenizer.has_chat_template)
    recipe = learnable(recipe, facts, start)
    _check(recipe, facts, recovering, start)
    recipe.student.check(f"recipe {recipe.name}", origin.name, origin.shape)
    student = recipe.student.decided(origin.shape, block_of([recipe.mix(name) for name in recipe.mixes]))
    shape = student.shape(origin.shape)
    if recipe.vocabulary is not None:
        shape = replace(shape, vocab=recipe.vocabulary)
    check_blocks(recipe, shape, facts.shape)
    new_tables = shape.width != origin.shape.width or recipe.student.kind == "config"
    check_adapters(recipe, shape, facts.shape, new_tables)
    check_general(recipe)
    return recipe.model_copy(update={"student": student}), shape


def weigh(
    recipe: Recipe,
    target: Target,
    facts: ModelFacts,
    student: ModelShape,
    build: BuildPlan,
    machine: BuildMachine,
    start: Start | None = None,
) -> Plan:
    """Each tensor's format, what each mix weighs on the device, and whether the build fits this machine.

    Args:
        recipe, student: as `decide` gives them.
        target: what for.
        facts: the teacher.
        build: what the stages take here.
        machine: `this_machine(folder)`.
        start: the model that the student starts from; None where that is the teacher.
    Raises:
        InputError: a row doesn't divide into the blocks of its format. What is merely too big is in the plan;
            `Plan.require_fit` raises it.
    """
    origin = facts if start is None else start.facts
    tokens = recipe.vocabulary or origin.tokenizer.tokens
    planned = [recipe.mix(name) for name in recipe.mixes]
    mixes = {mix.name: plan_mix(student, mix, target, tokens) for mix in planned}
    others = {
        name: plan_mix(student, Mix(name, name), target, tokens)
        for name in MIXES
        if name not in mixes and storable(student, name)
    }
    chosen = next((plan for plan in mixes.values() if plan.fits), next(iter(mixes.values())))
    uncut = recipe.mix(chosen.mix)
    whole = None
    # A fitted mix may be as large for the teacher as for the student: no alternative to weigh.
    if student != facts.shape and student.parameters < facts.shape.parameters and uncut.size is None:
        whole = plan_mix(facts.shape, uncut, target, facts.tokenizer.tokens)
    return Plan(
        recipe=recipe,
        target=target,
        facts=facts,
        student=student,
        context=kv_tokens(student, target),
        mixes=mixes,
        formats={mix.name: _formats(student, mix) for mix in planned},
        build=build,
        machine=machine,
        alternatives=rejected(facts, student, chosen, others, whole),
        start=start,
    )


def _formats(student: ModelShape, mix: Mix) -> dict[str, str]:
    """Tensor -> number format; none where a fitted mix has yet to choose."""
    if mix.unfitted:
        return {}
    return {name: number_format.name for name, number_format in assign_formats(student, mix).items()}


def _check(recipe: Recipe, facts: ModelFacts, recovering: bool, start: Start | None) -> None:
    """Raise InputError for what would stop a later stage."""
    teach = recipe.teach
    context, reader = context_of(facts, start)
    where = f"recipe {recipe.name}"
    if recipe.lacks_answers is not None:
        raise InputError(
            f"{where}: {recipe.lacks_answers}, and no file brings answers. Give one with --data FILE, or name it in "
            "task.file or teach.prompts."
        )
    if teach.style == "chat" and not facts.tokenizer.has_chat_template:
        raise InputError(
            f"{where}: teach.style is 'chat', but the teacher {facts.name} has no chat template. "
            "Set teach.style to 'text', or take a teacher that chats."
        )
    if teach.style == "text" and teach.answers != "teacher":
        raise InputError(
            f"{where}: teach.answers is '{teach.answers}', and answers are trained on in chats alone; the teacher "
            f"{facts.name} has no chat template, or teach.style is 'text'. Set teach.answers to 'teacher', or take a "
            "teacher that chats."
        )
    if teach.style == "chat" and start is not None and not start.facts.tokenizer.has_chat_template:
        raise InputError(
            f"{where}: teach.style is 'chat', but the student {start.facts.name} has no chat template. "
            "Set teach.style to 'text', or take a student that chats."
        )
    if teach.style == "text" and teach.prompts == OWN_PROMPTS and teach.prompt_field:
        raise InputError(
            f"{where}: teach.prompt_field is '{teach.prompt_field}', but there is no prompts file. Name one "
            "in teach.prompts."
        )
    trainings: dict[str, int] = {}
    for index, phase in enumerate(recipe.phases):
        if phase in recipe.trained_phases:
            trainings[f"{recipe.place_of(index)}.seq_len"] = phase.seq_len
    trainings["recover.seq_len"] = recipe.recover.seq_len
    if not recovering:
        del trainings["recover.seq_len"]
    for part, length in (
        *trainings.items(),
        ("teach.max_prompt_tokens + teach.max_answer_tokens", teach.max_prompt_tokens + teach.max_answer_tokens),
    ):
        if length > context:
            raise InputError(
                f"{where}: {part} is {length}; {reader} reads at most {context} tokens. Choose at most that."
            )
    if "onnx" in recipe.export:
        check_onnx(where, facts.shape if start is None else start.facts.shape)
    for part, length in trainings.items():
        if teach.text_tokens and teach.text_window is not None and teach.text_window > length:
            raise InputError(
                f"{where}: teach.text_window is {teach.text_window}, and {part} {length}: the end of every "
                "piece of text would be "
                "left out. Choose at most that."
            )
    if recipe.student.as_is and recipe.recover.compares:
        raise InputError(
            f"{where}: a term of recover.loss goes towards the teacher, but the student is the teacher itself. Let it "
            "go towards the student."
        )
    for part, tokens in (("measure.prefill", recipe.measure.prefill), ("measure.decode", recipe.measure.decode)):
        if tokens > context:
            raise InputError(
                f"{where}: {part} is {tokens}; the model reads at most {context} tokens. Choose at most that."
            )
    if recipe.teacher.top_k > facts.shape.vocab:
        raise InputError(
            f"{where}: teacher.top_k is {recipe.teacher.top_k}; the teacher {facts.name} has "
            f"{facts.shape.vocab} tokens."
        )
    for entry in recipe.measure.tasks:
        read_questions(entry)
    for path in teach.text or ():
        check_text("teach.text", Path(path))
