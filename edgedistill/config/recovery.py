"""A recipe for the `recover` command: the model stays as it is; mixes, budget, text and formats come from the command
line.
"""

from collections.abc import Sequence

from pydantic import ValidationError

from edgedistill.config.own_mixes import allowed_mixes, known_mixes
from edgedistill.config.recipe import Recipe
from edgedistill.config.teach import Teach
from edgedistill.config.yaml_file import explain
from edgedistill.errors import InputError, did_you_mean
from edgedistill.units import parse_count

# Passes over the text that a budget may make. Up to four are nearly as good as new text; beyond, it pays to write more.
# Source: Muennighoff et al. 2023, Scaling Data-Constrained Language Models.
MOST_PASSES = 4


def recovery_recipe(
    recipe: Recipe,
    *,
    mixes: Sequence[str] = (),
    tokens: str | None = None,
    texts: Sequence[str] = (),
    text_only: bool = False,
    prompts: str | None = None,
    formats: Sequence[str] = (),
    options: tuple[str, str] = ("--mix", "--tokens"),
) -> Recipe:
    """The recipe with `student.as_is`, and with what the command line says; what it leaves out stays as the recipe has
    it.

    Args:
        recipe: any; its `distill` part isn't used.
        mixes: names that the recipe could have; they replace its own.
        tokens: training tokens of each mix, such as "400k".
        texts: absolute paths of text files, which take the place of the recipe's prose and half of the training text.
        text_only: the model writes nothing: the text is all there is.
        prompts: absolute path of a prompts file, in place of the questions that the model makes up.
        formats: "gguf", "onnx".
        options: what the command calls the options for mixes and for tokens.
    Raises:
        InputError: an option is wrong; one sentence that names it.
    """
    budget = None if tokens is None else _count(tokens, options[1])
    _check_mixes(recipe, mixes, options[0])
    if text_only and not (texts or recipe.teach.text):
        raise InputError("--text-only trains on the text that you give; name it with --text FILE")
    if text_only and prompts is not None:
        raise InputError("--text-only lets the model write nothing, and --prompts makes it answer; give one of them")
    found = recipe.to_dict()
    found["student"] = {"as_is": True}
    if mixes:
        found["mixes"] = list(mixes)
    if formats:
        found["export"] = list(formats)
    if budget is not None:
        found["recover"] |= {"tokens": budget, "tokens_by_mix": {}}
    teach = found["teach"]
    if texts:
        teach |= {"text": list(texts), "text_tokens": teach["tokens"] + teach["free_tokens"] or teach["text_tokens"]}
    if prompts is not None:
        teach["prompts"] = prompts
    if text_only:
        teach |= {"tokens": 0, "free_tokens": 0, "text_tokens": max(1, teach["text_tokens"])}
    try:
        changed = Recipe.model_validate(found)
    except ValidationError as error:
        raise InputError(f"recipe {recipe.name}: {explain(error, Recipe)}") from None
    most = max(map(changed.recover.tokens_of, changed.mixes))
    return changed.model_copy(update={"teach": _enough_text(changed.teach, most)})


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


def _count(text: str, option: str) -> int:
    try:
        return parse_count(text.strip(), least=0)
    except ValueError as error:
        raise InputError(f"{option} is '{text}'; {error}") from None


def _check_mixes(recipe: Recipe, mixes: Sequence[str], option: str) -> None:
    known = known_mixes(recipe.define_mixes)
    for mix in mixes:
        if mix not in known:
            raise InputError(
                f"{option} names '{mix}'; it must be one of {allowed_mixes(recipe.define_mixes)}, or defined "
                "under define_mixes in a "
                f"--recipe.{did_you_mean(mix, known)}"
            )
