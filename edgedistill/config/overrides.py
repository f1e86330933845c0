"""What a command line says in place of a recipe's keys, for `compile`, `plan`, `recover` and `compare` alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from edgedistill.config.own_mixes import allowed_mixes, known_mixes
from edgedistill.config.recipe import FileKind, Recipe
from edgedistill.config.students.auto import CHOOSABLE
from edgedistill.config.teach import Teach
from edgedistill.config.yaml_file import explain
from edgedistill.errors import InputError, did_you_mean
from edgedistill.place.choose import check_device
from edgedistill.units import parse_count

# Passes over the text that a budget may make. Up to four are nearly as good as new text; beyond, it pays to write more.
# Source: Muennighoff et al. 2023, Scaling Data-Constrained Language Models.
MOST_PASSES = 4


@dataclass(frozen=True)
class Overrides:
    """What is left out stays as the recipe has it.

    Attributes:
        mixes: names that the recipe could have; they replace its own.
        tokens: training tokens of each mix on its grid, such as "400k".
        texts: absolute paths of text files, which take the place of the recipe's prose and half of the training text.
        text_only: the model writes nothing: the text is all there is.
        prompts: absolute path of a prompts file, in place of the questions that the model makes up.
        data: absolute path of a task's rows, in place of the recipe's.
        formats: "gguf", "onnx".
        layers: of the student.
        students: kinds of the student, of which the planner chooses one and its sizes; the recipe's own keeps its own.
        siblings: models that the planner may choose too.
        device: what torch computes on.
        tokens_option: what the command calls its option for `tokens`.
    """

    mixes: Sequence[str] = ()
    tokens: str | None = None
    texts: Sequence[str] = ()
    text_only: bool = False
    prompts: str | None = None
    data: str | None = None
    formats: Sequence[str] = ()
    layers: int | None = None
    students: Sequence[str] = ()
    siblings: Sequence[str] = ()
    device: str | None = None
    tokens_option: str = "--tokens"

    @property
    def empty(self) -> bool:
        """Whether they change nothing."""
        return self == Overrides(tokens_option=self.tokens_option)


def overridden(recipe: Recipe, overrides: Overrides, as_is: bool = False) -> Recipe:
    """The recipe with what a command line says.

    Args:
        recipe: any.
        overrides: what it says.
        as_is: the student is the model itself: no layer is cut.
    Raises:
        InputError: an option is wrong; one sentence that names it.
    """
    if overrides.empty and not as_is:
        return recipe
    budget = None if overrides.tokens is None else _count(overrides.tokens, overrides.tokens_option)
    _check(recipe, overrides, as_is)
    content = recipe.to_dict()
    if overrides.device is not None:
        content["device"] = _device(overrides.device)
    if as_is:
        content["student"] = {"kind": "same"}
    if overrides.students:
        content["student"] = _student_of(content["student"], tuple(overrides.students))
    if overrides.siblings:
        if content["student"]["kind"] != "auto":
            kinds = [kind for kind in overrides.students if kind in CHOOSABLE]
            content["student"] = {"kind": "auto", "kinds": kinds or list(CHOOSABLE)}
        content["student"] |= {"siblings": list(overrides.siblings)}
    if overrides.layers is not None:
        if content["student"]["kind"] == "auto":
            content["student"] = {"kind": "depth"}  # the number of layers leaves the planner no choice
        content["student"] |= {"layers": overrides.layers}
    if overrides.mixes and content["student"]["kind"] == "auto":
        content["student"] |= {"mixes": list(overrides.mixes)}
    if overrides.mixes:
        content["mixes"] = list(overrides.mixes)
    if overrides.formats:
        content["export"] = list(overrides.formats)
    if budget is not None:
        content["recover"] |= {"tokens": budget, "tokens_by_mix": {}}
    content["teach"] = _text_of(content["teach"], overrides)
    if overrides.data is not None:
        content["task"] = (content["task"] or {}) | {"file": overrides.data}
    try:
        changed = Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"recipe {recipe.name}: {explain(error, Recipe)}") from None
    if budget is None and not as_is:
        return changed
    most = max(map(changed.recover.tokens_of, changed.mixes))
    teach = changed.teach
    if budget is not None and as_is:
        teach = _no_more_text(changed, budget)
    return changed.model_copy(update={"teach": _enough_text(teach, most)})


def _device(device: str) -> str:
    """What --device or EDGEDISTILL_DEVICE says.

    Raises:
        InputError: it is no device's name.
    """
    try:
        return check_device(device)
    except ValueError as error:
        raise InputError(f"--device or EDGEDISTILL_DEVICE is '{device}'; {error}") from None


def _student_of(student: dict[str, Any], kinds: tuple[str, ...]) -> dict[str, Any]:
    """A recipe's `student` part with the kinds of a command line: its own settings stay where its kind does; else the
    planner chooses the sizes.
    """
    if kinds == (student["kind"],):
        return student
    if kinds in (("same",), ("auto",)):
        return {"kind": kinds[0]}
    return {"kind": "auto", "kinds": list(kinds)}


def _text_of(teach: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """A recipe's `teach` part with the texts and prompts of a command line."""
    if overrides.texts:
        written = teach["tokens"] + teach["free_tokens"]
        teach = teach | {"text": list(overrides.texts), "text_tokens": written or teach["text_tokens"]}
    if overrides.prompts is not None:
        teach = teach | {"prompts": overrides.prompts}
    if overrides.text_only:
        written = dict.fromkeys(("tokens", "free_tokens", "new_tokens"), 0)
        teach = teach | written | {"text_tokens": max(1, teach["text_tokens"])}
    return teach


def _enough_text(teach: Teach, tokens: int) -> Teach:
    """The same with as much text as `tokens` of training want.

    Text that is only read costs nothing, so there are no passes to save. What the model writes grows by doubling: a
    budget that changes by less than that finds the text that is there.
    """
    if not teach.tokens + teach.free_tokens:
        return teach.model_copy(update={"text_tokens": max(tokens, teach.text_tokens)})
    factor = 1
    while MOST_PASSES * factor * (teach.tokens + teach.free_tokens + teach.text_tokens) < tokens:
        factor *= 2
    grown = {name: factor * getattr(teach, name) for name in ("tokens", "free_tokens", "text_tokens")}
    return teach.model_copy(update=grown)


def _no_more_text(recipe: Recipe, tokens: int) -> Teach:
    """The same with no more text than a small budget, the fit and the judging need: writing it takes most of the time.

    The training text is what the fit reads, or twice that and so on, until it is a pass's worth: budgets that differ by
    less find the same text. What is held out are as many tokens as judging reads, and as many again for validation.
    """
    teach = recipe.teach
    total = teach.tokens + teach.free_tokens + teach.text_tokens
    if not teach.tokens + teach.free_tokens:
        return teach
    trained = recipe.recover.fit_tokens
    while trained < tokens:
        trained *= 2
    held_out = min(2 * recipe.measure.tokens, round(teach.holdout * total))
    if trained + held_out >= total:
        return teach
    share = (trained + held_out) / total
    less = {name: round(share * getattr(teach, name)) for name in ("tokens", "free_tokens", "text_tokens")}
    return teach.model_copy(update=less | {"holdout": held_out / (trained + held_out)})


def _count(text: str, option: str) -> int:
    try:
        return parse_count(text.strip(), least=0)
    except ValueError as error:
        raise InputError(f"{option} is '{text}'; {error}") from None


def _check(recipe: Recipe, overrides: Overrides, as_is: bool) -> None:
    mixes = known_mixes(recipe.define_mixes)
    for mix in overrides.mixes:
        if mix not in mixes:
            raise InputError(
                f"--mix names '{mix}'; it must be one of {allowed_mixes(recipe.define_mixes)}, or defined under "
                f"define_mixes in a --recipe.{did_you_mean(mix, mixes)}"
            )
    if set(overrides.formats) - set(get_args(FileKind)):
        raise InputError(
            f"--format is '{','.join(overrides.formats)}'; it must be {' or '.join(get_args(FileKind))}, or both with "
            "a comma between them"
        )
    if overrides.text_only and not (overrides.texts or recipe.teach.text):
        raise InputError("--text-only trains on the text that you give; name it with --text FILE")
    if overrides.text_only and overrides.prompts is not None:
        raise InputError("--text-only lets the model write nothing, and --prompts makes it answer; give one of them")
    if overrides.prompts is not None and overrides.data is not None:
        raise InputError("--prompts and --data both say what the model is asked; give one of them")
    for kind in overrides.students:
        allowed = (*CHOOSABLE, "auto") if len(overrides.students) == 1 else CHOOSABLE
        if kind not in allowed and overrides.students != (recipe.student.kind,):
            raise InputError(
                f"--student names '{kind}'; it must be one of {', '.join(allowed)}.{did_you_mean(kind, allowed)}"
            )
    cuts = (*CHOOSABLE, "auto")
    if overrides.siblings and (overrides.students == ("same",) or not set(overrides.students) <= set(cuts)):
        raise InputError(
            f"--sibling names a model for the planner to choose, and --student {overrides.students[0]} leaves it no "
            "choice; leave out one of them, or take --student auto"
        )
    if overrides.layers is not None and overrides.siblings:
        raise InputError("--layers leaves the planner no choice, and --sibling names a model for it; give one of them")
    if overrides.layers is not None and overrides.students and tuple(overrides.students) != ("depth",):
        raise InputError(
            f"--layers cuts the student in depth, and --student is {','.join(overrides.students)}; give one of them, "
            "or --student depth"
        )
    if overrides.layers is not None and (as_is or recipe.student.as_is):
        raise InputError(
            f"--layers cuts the student, and recipe {recipe.name} keeps the model as it is; leave one of them out"
        )
    sized = recipe.student.kind == "auto" or "layers" in type(recipe.student).model_fields
    if overrides.layers is not None and not sized:
        raise InputError(
            f"--layers says how many layers a student has, and recipe {recipe.name}'s is of the kind "
            f"{recipe.student.kind}, which keeps them all; leave --layers out, or take the kind depth or depth+width"
        )
