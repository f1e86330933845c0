"""The choice of student and mix: of what meets the target's limits the least predicted loss. No torch.

Where losses are equal the smaller file is taken. Where memory has no room for the target's context beside anything, the
longest context is taken at which something fits. Where nothing meets the limits, the one that misses them by least is
named, and by how much.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgedistill.config.recipe import Recipe
from edgedistill.config.students.auto import AutoStudent
from edgedistill.config.target import Target
from edgedistill.errors import DoesNotFitError, InputError
from edgedistill.facts import ModelFacts, Start
from edgedistill.plan.enumerate import mixes_for, shorter_contexts, students
from edgedistill.plan.kept import kept_words
from edgedistill.plan.loss_rule import ROUNDING_ERROR
from edgedistill.plan.predict import Candidate, predict
from edgedistill.show import NATS, show, show_bytes, show_count, show_rate

RULE = "of what meets the target's limits, the least predicted loss"
WHOLE = 1 << 62  # above any context
SHOWN = 6  # of the others, the best of each student; siblings, which somebody named, besides


@dataclass(frozen=True)
class Choice:
    """What was chosen, and all that it was chosen from.

    Attributes:
        chosen: the winner.
        candidates: all, in the order of enumeration.
        runners_up: of every other student its best, with why it lost; those of least loss first.
    """

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    runners_up: tuple[tuple[Candidate, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "rule": RULE,
            "rounding_error_factor": ROUNDING_ERROR,
            "chosen": self.chosen.to_dict(),
            "runners_up": [candidate.to_dict() | {"lost": why} for candidate, why in self.runners_up],
            "candidates": [candidate.to_dict() for candidate in self.candidates],
        }


@dataclass(frozen=True)
class Settled:
    """A recipe and a target with all decided that they leave to the planner; the choice, where there was one."""

    recipe: Recipe
    target: Target
    choice: Choice | None = None


def settle(recipe: Recipe, target: Target, facts: ModelFacts, siblings: Sequence[Start] = ()) -> Settled:
    """Student, mix and context chosen, where the recipe leaves them to the planner.

    Args:
        recipe, target: what is asked for.
        facts: the teacher's.
        siblings: the models that the recipe's kind auto names, in its order.
    Raises:
        DoesNotFitError: nothing meets the limits.
        InputError: no student can be built in any of the mixes, a limit can't be foretold, or a sibling can't learn
            from this teacher.
    """
    if not isinstance(recipe.student, AutoStudent):
        return Settled(recipe, target)
    choice = choose(recipe, target, facts, siblings)
    chosen = choice.chosen
    own = {} if chosen.own is None else {chosen.mix.name: chosen.own}
    changes = {
        "student": chosen.student.student,
        "mixes": (chosen.mix.name,),
        "define_mixes": recipe.define_mixes | own,
    }
    narrowed = target.with_context(chosen.context) if chosen.shortened else target
    return Settled(recipe.model_copy(update=changes), narrowed, choice)


def choose(recipe: Recipe, target: Target, facts: ModelFacts, siblings: Sequence[Start] = ()) -> Choice:
    """The best of all candidates; raises as `settle`."""
    if target.limits.decode is not None and (target.bandwidth.best is None or target.efficiency.decode is None):
        raise InputError(
            f"target {target.name} wants at least {show_rate(target.limits.decode)} and has no bandwidth or no "
            "efficiency to foretell them with; give it both, or leave out the limit."
        )
    candidates = _candidates(recipe, target, facts, siblings)
    if not candidates:
        raise InputError(f"recipe {recipe.name}: no student of {facts.name} can be built in any of the mixes.")
    able = [candidate for candidate in candidates if candidate.planned.fits]
    if not able:
        nearest = min(candidates, key=lambda candidate: (_miss(candidate, target), candidate.loss))
        raise DoesNotFitError(
            f"nothing that can be made of {facts.name} meets the limits of {target.name}. The nearest is "
            f"{_name(nearest, facts)} in {nearest.mix.name}: {nearest.planned.why} (off by "
            f"{show(_miss(nearest, target) - 1, 'share')})."
        )
    chosen = min(able, key=_order)
    return Choice(chosen, tuple(candidates), _runners_up(candidates, chosen, target))


def choice_lines(choice: Choice, facts: ModelFacts) -> list[str]:
    """The choice in words: what was taken, and the runners-up with why each lost."""
    chosen = choice.chosen
    lines = [
        f"  {_name(chosen, facts)} in {_figures(chosen)}: {RULE}, of {len(choice.candidates)} candidates",
        f"  losses are mean KL to the teacher, in nats a token, by rules fitted to records of SmolLM2-135M: in "
        f"rounding they miss these by a factor of {ROUNDING_ERROR:g}; of cuts there is one record, so theirs are rough",
    ]
    if any(candidate.student.start is not None for candidate in choice.candidates):
        lines.append(
            "  a sibling's by a published law of loss against size, at much training of both: rough, too; what it has "
            "learned beside the teacher isn't known"
        )
    if chosen.shortened:
        lines.append(
            f"  context: nothing meets the limits with {show_count(chosen.full_context)} tokens of context, for which "
            f"memory is too small; with {show_count(chosen.context)} this does"
        )
    if chosen.student.student.as_is:
        lines.append("  nothing to distil: recover it. The teacher itself, on its grid, is predicted to lose least")
    shown = [*choice.runners_up[:SHOWN], *(pair for pair in choice.runners_up[SHOWN:] if pair[0].student.start)]
    lines += [f"  not {_name(other, facts)} in {_figures(other)}: {why}" for other, why in shown]
    return lines


def _candidates(recipe: Recipe, target: Target, facts: ModelFacts, siblings: Sequence[Start]) -> list[Candidate]:
    """Every student in every mix that can be made and is no larger than the teacher's own file; also with less context,
    where that is what memory lacks.
    """
    candidates = []
    for student in students(recipe, facts, siblings):
        tokenizer = (student.start.facts if student.start else facts).tokenizer
        for mix in mixes_for(recipe, student.shape, target, tokenizer.tokens):
            try:
                whole = predict(recipe, target, facts, student, mix)
            except InputError:
                continue  # its rows don't divide into the blocks, or no grid is so small
            if whole.planned.weight_bytes > facts.weight_bytes:
                continue  # the teacher's own file is smaller and loses nothing
            candidates.append(whole)
            for context in shorter_contexts(whole.context) if _lacks_memory(whole, target) else ():
                shorter = predict(recipe, target, facts, student, mix, context)
                if shorter.planned.fits:
                    candidates.append(shorter)
                    break
    return candidates


def _lacks_memory(candidate: Candidate, target: Target) -> bool:
    """Whether a file is small enough, and needs too much memory that is less with less context."""
    planned, limit = candidate.planned, target.limits.file
    least = planned.ram_bytes - planned.kv_bytes
    return (limit is None or planned.file_bytes <= limit) and least <= target.memory.usable < planned.ram_bytes


def _order(candidate: Candidate) -> tuple[int, float, int]:
    """Less context than is wanted comes after all that has it, and the longest of these first."""
    return -candidate.context if candidate.shortened else -WHOLE, candidate.loss, candidate.planned.file_bytes


def _runners_up(
    candidates: Sequence[Candidate], chosen: Candidate, target: Target
) -> tuple[tuple[Candidate, str], ...]:
    """Of each other student, and of the chosen one's other mixes, the best; with why it lost."""
    best: dict[int, tuple[Candidate, str]] = {}
    misses = [candidate for candidate in candidates if not candidate.planned.fits]
    able = [candidate for candidate in candidates if candidate.planned.fits]
    nearest_first = sorted(misses, key=lambda each: (_miss(each, target), each.loss))
    for candidate in [*sorted(able, key=_order), *nearest_first]:
        if candidate is chosen:
            continue
        if candidate.planned.fits and candidate.shortened and candidate.context < chosen.context:
            why = f"it has room for {show_count(candidate.context)} tokens of context, not {show_count(chosen.context)}"
        elif candidate.planned.fits:
            why = f"predicted loss {show(candidate.loss, NATS)} against {show(chosen.loss, NATS)}"
        else:
            why = candidate.planned.why
        best.setdefault(id(candidate.student), (candidate, why))
    return tuple(sorted(best.values(), key=lambda each: (each[0].loss, each[0].planned.file_bytes)))


def _miss(candidate: Candidate, target: Target) -> float:
    """How many times over the limit that it misses most a candidate is; at most 1 where it meets all."""
    planned, limits = candidate.planned, target.limits
    over = [planned.ram_bytes / target.memory.usable]
    if limits.file is not None:
        over.append(planned.file_bytes / limits.file)
    if limits.decode is not None and planned.predicted_decode_full_context_tokens_per_s:
        over.append(limits.decode / planned.predicted_decode_full_context_tokens_per_s)
    if limits.ttft is not None and planned.predicted_ttft_s is not None:
        over.append(planned.predicted_ttft_s / limits.ttft)
    return max(over)


def _name(candidate: Candidate, facts: ModelFacts) -> str:
    if candidate.student.student.as_is:
        return f"{facts.name} as it is"
    if candidate.student.start is not None:
        return f"the sibling {candidate.student.start.facts.name}"
    return f"{candidate.student.student.kind} ({kept_words(candidate.student.shape, facts.shape)})"


def _figures(candidate: Candidate) -> str:
    """'q4_0 (83.7 MB, at most 254 tokens/s, predicted loss 0.065)'."""
    facts = [show_bytes(candidate.planned.file_bytes)]
    if candidate.planned.predicted_decode_tokens_per_s is not None:
        facts.append(f"at most {show_rate(candidate.planned.predicted_decode_tokens_per_s)}")
    if candidate.shortened:
        facts.append(f"{show_count(candidate.context)} tokens of context")
    facts.append(f"predicted loss {show(candidate.loss, NATS)}")
    return f"{candidate.mix.name} ({', '.join(facts)})"
