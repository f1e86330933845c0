"""What a student that starts from another model than its teacher changes in a recipe: what it can learn from, and how
long its texts may be.
"""

from edgedistill.config.loss import DEFAULT_LOSS, TextTerm
from edgedistill.config.recipe import Recipe
from edgedistill.errors import InputError
from edgedistill.facts import ModelFacts, Start

TEXT_ALONE = (TextTerm(text=True),)


def learnable(recipe: Recipe, teacher: ModelFacts, start: Start | None) -> Recipe:
    """The recipe with losses that the student can learn: of a student with other words than its teacher, a loss that
    was left at its default becomes the text alone.

    Raises:
        InputError: a loss compares with the teacher's probabilities, and ids don't mean the same.
    """
    if start is None or start.other_words is None:
        return recipe
    differ = (
        f"the student {start.facts.name} has other words than the teacher {teacher.name} ({start.other_words}), so "
        "there is nothing to compare token by token"
    )
    other = "or take a student with the teacher's tokenizer"
    phases = []
    for index, phase in enumerate(recipe.phases):
        ours = phase.train == "student"
        loss = TEXT_ALONE if ours and phase.loss == DEFAULT_LOSS else phase.loss
        if ours and any(not isinstance(term, TextTerm) for term in loss):
            raise InputError(
                f"recipe {recipe.name}: {recipe.place_of(index)}.loss looks at the teacher's own values, and {differ}. "
                f"Set it to [{{text: true}}], {other}."
            )
        if ours and phase.on_policy is not None:
            raise InputError(
                f"recipe {recipe.name}: {recipe.place_of(index)}.on_policy has the teacher read what the student "
                f"writes, and {differ}. Leave it out, {other}."
            )
        phases.append(phase.model_copy(update={"loss": loss}))
    if recipe.recover.compares:
        raise InputError(
            f"recipe {recipe.name}: a term of recover.loss goes towards the teacher, and {differ}. Let it go towards "
            f"the student, {other}."
        )
    return recipe.model_copy(update={"phases": tuple(phases)})


def start_notes(asked: Recipe, decided: Recipe, teacher: ModelFacts, start: Start | None) -> tuple[str, ...]:
    """What the plan says of a student that starts from another model: how it learns, where that isn't what was asked.

    Args:
        asked, decided: the recipe before and after `learnable`.
    """
    if start is None:
        return ()
    name, notes = start.facts.name, []
    if start.other_words is not None:
        changed = asked.phases != decided.phases
        became = "; the recipe's loss was left at its default, and became the text" if changed else ""
        notes.append(
            f"{name} has other words than the teacher {teacher.name} ({start.other_words}): it learns from the "
            f"teacher's text alone, written in its own tokens and chat template{became}"
        )
        notes.append(
            f"nothing is compared with {teacher.name} token by token: its perplexity is given per token of {name}"
        )
    elif not start.same_chats:
        notes.append(
            f"{name} has the teacher's words in chats of its own: the answers and what the teacher thinks of them are "
            "put into its chat template"
        )
        if any(phase.block_terms or phase.on_policy is not None for phase in decided.student_phases):
            notes.append(
                f"for what is inside it, and of what {name} writes itself, the teacher reads chats in the template of "
                f"{name}, which isn't the one that it was trained in"
            )
    return tuple(notes)


def context_of(teacher: ModelFacts, start: Start | None) -> tuple[int, str]:
    """Tokens that both models can read, and which of them can't read more, for messages."""
    if start is None or start.facts.shape.context >= teacher.shape.context:
        return teacher.shape.context, f"the teacher {teacher.name}"
    return start.facts.shape.context, f"the student {start.facts.name}"
