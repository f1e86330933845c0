"""Everything before the first stage: the recipe decided, the stages listed, their estimate, and the plan."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgedistill.config.conversation import Message, Prompt
from edgedistill.config.recipe import Recipe
from edgedistill.config.target import Target
from edgedistill.config.task import CLASSIFY, EXTRACT, TEXT
from edgedistill.config.task_data import TaskData, read_task
from edgedistill.config.teach import Teach
from edgedistill.facts import ModelFacts, Start
from edgedistill.models.trim import check_size
from edgedistill.pipeline.asked import teaching_prompts
from edgedistill.pipeline.computing import computed_on, gpu_need, processor_instead
from edgedistill.pipeline.context import Context
from edgedistill.pipeline.estimate import plan_build
from edgedistill.pipeline.stage import Stage
from edgedistill.pipeline.steps import compare_steps, compile_steps
from edgedistill.pipeline.task_trial import check_answers
from edgedistill.pipeline.template_trial import Conversations, Trial, try_template
from edgedistill.plan import BuildMachine, Plan, decide, this_machine, weigh
from edgedistill.plan.choose import Choice, settle
from edgedistill.plan.rival import plan_rival, rival_note
from edgedistill.plan.start import context_of, start_notes

OWN_CHATS = "the chats that the model was trained on"


@dataclass(frozen=True)
class Job:
    """What a command asks for.

    Attributes:
        recipe: what to build, with its teacher filled in.
        target: what for.
        out: the run folder; made if it doesn't exist.
        comparing: whether files are made to be compared, by `compare`.
        recovering: whether each mix is trained on its grid.
        command: the command line that repeats it.
    """

    recipe: Recipe
    target: Target
    out: Path
    comparing: bool = False
    recovering: bool = True
    command: str = ""

    @property
    def steps(self) -> Callable[[Context], list[Stage]]:
        """The function that lists its stages."""
        return compare_steps if self.comparing else compile_steps


@dataclass(frozen=True)
class Prepared:
    """A job whose stages are listed and planned. Nothing was written."""

    context: Context
    stages: list[Stage]
    plan: Plan


def prepare(
    job: Job,
    facts: ModelFacts,
    machine: BuildMachine,
    license_text: str | None = None,
    start: Start | None = None,
    choice: Choice | None = None,
) -> Prepared:
    """List and plan the stages of a job, in which nothing is left to the planner's choice: `settle` comes before.

    Args:
        job: what is asked for.
        facts: the teacher's.
        machine: `this_machine(out)`.
        license_text: the teacher's licence in full, for the bundle.
        start: the model that the student starts from, as `read_start` gives it; None where that is the teacher.
        choice: what the planner chose from.
    Raises:
        InputError: teacher and recipe don't go together, or a file that the recipe names is wrong. What is merely too
            big is in the plan; `Plan.require_fit` raises it.
    """
    task = None if job.recipe.task is None else read_task(job.recipe.task)
    if job.recipe.task is not None and task is not None:
        check_answers(facts, job.recipe.task, task)
    given = facts
    recipe, shape = decide(job.recipe, facts, job.recovering, start)
    recipe = computed_on(recipe, machine.place)
    if recipe.vocabulary is not None:
        origin = facts if start is None else start.facts
        check_size(f"recipe {recipe.name}", Path(origin.location), recipe.vocabulary)
    if start is not None and facts.system is None:  # a run's student is trained behind its system message again
        facts = replace(facts, system=start.facts.system)
    trial, facts = _tried(job, recipe, task, facts, start)
    cores = machine.cores
    system = trial.system or facts.system
    rival = None if job.comparing else plan_rival(recipe, job.target, facts, shape)
    context = Context(
        recipe,
        job.target,
        facts,
        shape,
        cores,
        job.recovering,
        job.command,
        job.out,
        license_text,
        system,
        task,
        rival,
        start,
        machine.place,
    )
    stages = job.steps(context)
    need = gpu_need(stages, context)
    smaller = processor_instead(machine.place, need)
    if smaller is not None:
        return prepare(job, given, replace(machine, place=smaller), license_text, start, choice)
    plan = weigh(recipe, job.target, facts, shape, plan_build(stages, context), machine, start)
    without = () if job.comparing else rival_note(recipe, rival)
    notes = (
        *start_notes(job.recipe, recipe, facts, start),
        *trial.notes,
        *_of_system(facts, system),
        *_of_task(recipe, task, trains=job.recovering or not job.comparing),
        *without,
    )
    return Prepared(context, stages, replace(plan, notes=notes, rival=rival, choice=choice, gpu=need))


def _tried(
    job: Job, recipe: Recipe, task: TaskData | None, facts: ModelFacts, start: Start | None
) -> tuple[Trial, ModelFacts]:
    """What the templates make of what is asked; the facts without a system message that one of them doesn't show.

    A model that brings a system message of its own training is asked behind it where no prompts are given.
    """
    prompts, file = _chats(recipe.teach, task), Path(recipe.task.file if recipe.task else recipe.teach.prompts).name
    if recipe.teach.style != "chat":
        facts = replace(facts, system=None)
    if not prompts and facts.system is not None:
        prompts, file = (Prompt((Message("system", facts.system), Message("user", "a"))),), OWN_CHATS
    trial = Trial()
    if facts.tokenizer.has_chat_template:
        taught = file == OWN_CHATS or job.recovering or not job.comparing
        conversations = Conversations(
            samples=recipe.measure.prompts,
            most_tokens=min(recipe.measure.context, context_of(facts, start)[0]),
            prompts=prompts if taught else (),
            file=file,
            longest_prompt=recipe.teach.longest_prompt,
        )
        trial = try_template(Path(facts.location), facts.name, conversations)
        if start is not None and not start.same_chats:
            trial = _tried_by_student(trial, start, conversations)
    return trial, replace(facts, system=trial.system) if file == OWN_CHATS else facts


def _tried_by_student(trial: Trial, start: Start, conversations: Conversations) -> Trial:
    """The trial of the teacher's template, and that of a student's own: the student must show what the teacher does."""
    room = replace(conversations, longest_prompt=start.facts.shape.context)
    own = try_template(Path(start.facts.location), start.facts.name, room)
    return Trial(tuple(dict.fromkeys((*trial.notes, *own.notes))), trial.system and own.system)


def _of_system(facts: ModelFacts, system: str | None) -> tuple[str, ...]:
    if system is None or system != facts.system:
        return ()
    return (f"all chats that {facts.name} was trained on began with a system message; it is asked behind it here too",)


def _of_task(recipe: Recipe, task: TaskData | None, trains: bool) -> tuple[str, ...]:
    """What the task is, and what a user should know of its rows; `trains`: whether anything is trained on them."""
    if recipe.task is None or task is None:
        return ()
    asked = len(task.asked(recipe.task.items))
    kinds = {
        CLASSIFY: f"{len(task.labels or ())} labels",
        EXTRACT: f"objects with the fields {', '.join(task.fields or ())}",
        TEXT: "texts",
    }
    rows = f"{len(task.learn)} rows to learn from, {len(task.test)} to test, of which every file is asked {asked}"
    about = f"task {recipe.task.name} ({task.kind}, {kinds[task.kind]}): {rows}"
    return (about, *_unlearned(recipe, trains), *task.notes)


def _unlearned(recipe: Recipe, trains: bool) -> tuple[str, ...]:
    """That nothing learns the rows' own answers, where it is so and something is trained."""
    if not trains or recipe.teach.answers != "teacher" or recipe.teacher_phases:
        return ()
    return (
        "the teacher answers the task's prompts, and the rows' own answers only judge (teach.answers is teacher); the "
        "recipes classify and extract learn them",
    )


def _chats(teach: Teach, task: TaskData | None) -> tuple[Prompt, ...]:
    """The prompts of the recipe's file or task that the teacher answers in chats.

    Raises:
        InputError: the file is missing or malformed.
    """
    file = teaching_prompts(task, teach)
    if file is None:
        return ()
    prompts = file.used(teach.answers)
    return prompts if teach.style == "chat" and teach.tokens else ()


def make_plan(
    recipe: Recipe,
    target: Target,
    facts: ModelFacts,
    machine: BuildMachine | None = None,
    recovering: bool = True,
) -> Plan:
    """The plan of a compile; of a comparison unless `recovering`. See `prepare`.

    Args:
        machine: `this_machine(folder)`; None for this machine and the current folder.
    """
    settled = settle(recipe, target, facts)
    job = Job(settled.recipe, settled.target, Path(), comparing=not recovering, recovering=recovering)
    return prepare(job, facts, machine or this_machine(Path()), choice=settled.choice).plan
