"""What the `recover` command makes of a recipe: the model as it is, and as much text as the budget wants."""

import pytest
import yaml

from edgedistill.config import Recipe, load_recipe
from edgedistill.config.overrides import Overrides, overridden
from edgedistill.config.recovery import recovery_recipe
from edgedistill.errors import InputError
from edgedistill.mixes import QUANTIZED_MIXES

RECIPE = load_recipe("recover")


def amounts(recipe: Recipe) -> tuple[int, int, int]:
    return recipe.teach.tokens, recipe.teach.free_tokens, recipe.teach.text_tokens


def test_nothing_given_changes_nothing():
    assert recovery_recipe(RECIPE) == RECIPE


def test_a_recipe_that_compile_takes_stays_as_it_is_where_nothing_is_said():
    chat = load_recipe("chat")
    assert overridden(chat, Overrides()) is chat


def test_the_same_options_change_a_recipe_of_compile_without_making_it_keep_the_model():
    chat = load_recipe("chat")
    found = overridden(chat, Overrides(mixes=["q4_0"], tokens="40k", texts=["/a.txt"], prompts="/p.txt", layers=7))
    assert (found.mixes, found.recover.tokens_of("q4_0"), found.student.layers) == (("q4_0",), 40_000, 7)
    assert (found.teach.text, found.teach.prompts) == (("/a.txt",), "/p.txt")
    assert found.teach.text_tokens == chat.teach.tokens + chat.teach.free_tokens
    assert found.distill == chat.distill
    assert not found.student.as_is


def test_a_model_that_is_kept_as_it_is_has_no_layers_to_choose():
    with pytest.raises(InputError, match="--layers cuts the student, and recipe recover keeps the model as it is"):
        overridden(RECIPE, Overrides(layers=3))


def test_any_recipe_keeps_the_model_as_it_is():
    found = recovery_recipe(load_recipe("chat"))
    assert found.student.as_is
    assert found.student.kind == "same"
    assert found.recover == load_recipe("chat").recover


@pytest.mark.parametrize(("tokens", "trained"), [("0", 32_768), ("10k", 32_768), ("60k", 65_536)])
def test_a_small_budget_writes_what_the_fit_and_the_judging_read(tokens: str, trained: int):
    """`--tokens 0` wrote 80,000 tokens where its fit reads 32,768."""
    recipe = recovery_recipe(RECIPE, Overrides(tokens=tokens))
    held_out = 2 * RECIPE.measure.tokens
    assert sum(amounts(recipe)) == pytest.approx(trained + held_out, abs=2)
    assert recipe.teach.holdout * sum(amounts(recipe)) == pytest.approx(held_out, abs=2)
    assert recipe.teach.tokens / recipe.teach.free_tokens == pytest.approx(50 / 30, rel=1e-3)


@pytest.mark.parametrize("tokens", ["100k", "400k"])
def test_text_serves_any_budget_of_up_to_four_passes(tokens: str):
    assert amounts(recovery_recipe(RECIPE, Overrides(tokens=tokens))) == (50_000, 30_000, 20_000)


@pytest.mark.parametrize(("tokens", "factor"), [("401k", 2), ("800k", 2), ("1M", 4)])
def test_text_grows_by_doubling(tokens: str, factor: int):
    assert amounts(recovery_recipe(RECIPE, Overrides(tokens=tokens))) == (
        50_000 * factor,
        30_000 * factor,
        20_000 * factor,
    )


def test_a_budget_that_is_given_is_every_mixs():
    found = recovery_recipe(RECIPE, Overrides(mixes=["q4_0", "q8_0"], tokens="40k"))
    assert [found.recover.tokens_of(mix) for mix in found.mixes] == [40_000, 40_000]
    assert recovery_recipe(RECIPE, Overrides(mixes=["q8_0"])).recover.tokens_of("q8_0") == 8_000


def test_own_text_is_half_and_alone_it_is_all():
    half = recovery_recipe(RECIPE, Overrides(texts=["/a.txt", "/b.txt"]))
    assert half.teach.text == ("/a.txt", "/b.txt")
    assert amounts(half) == (50_000, 30_000, 80_000)
    alone = recovery_recipe(RECIPE, Overrides(texts=["/a.txt"], text_only=True, tokens="1M"))
    assert amounts(alone) == (0, 0, 1_000_000)  # reading costs nothing, so no passes are saved


def test_own_text_keeps_the_amount_of_a_recipe_whose_model_writes_nothing():
    reading = RECIPE.model_copy(
        update={"teach": RECIPE.teach.model_copy(update={"tokens": 0, "free_tokens": 0, "text_tokens": 8000})}
    )
    assert amounts(recovery_recipe(reading, Overrides(texts=["mine.txt"], tokens="4k"))) == (0, 0, 8000)


def test_a_model_that_does_not_chat_writes_free_text_alone():
    found = RECIPE.decided(has_chat_template=False).teach
    assert (found.style, found.tokens, found.free_tokens) == ("text", 80_000, 0)
    prompted = recovery_recipe(RECIPE, Overrides(prompts="/p.txt")).decided(has_chat_template=False).teach
    assert (prompted.style, prompted.tokens, prompted.free_tokens) == ("text", 50_000, 30_000)


def test_mixes_formats_and_prompts_are_those_given():
    own = Recipe.model_validate({**RECIPE.to_dict(), "define_mixes": {"mine": {"base": "q4_0"}}})
    found = recovery_recipe(own, Overrides(mixes=["mine", "tq2_0"], formats=["onnx"], prompts="/p.txt"))
    assert (found.mixes, found.export, found.teach.prompts) == (("mine", "tq2_0"), ("onnx",), "/p.txt")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"mixes": ["q4_km"]},
            f"--mix names 'q4_km'; it must be one of {', '.join(QUANTIZED_MIXES)}, or auto_q4_0 and so on for a mix "
            "fitted to that one's bytes, or defined under define_mixes in a --recipe. Did you mean 'q4_k_m'?",
        ),
        ({"mixes": ["auto_q4km"]}, "Did you mean 'auto_q4_k_m'?"),
        ({"mixes": ["auto_f16"]}, "--mix names 'auto_f16'; it must be one of"),
        ({"mixes": ["f16"]}, "--mix names 'f16'; it must be one of"),
        ({"tokens": "many"}, "--tokens is 'many'; it must be a whole number from 0 on, such as 400k, 1.5M or 20000"),
        ({"formats": ["tflite"]}, "--format is 'tflite'; it must be gguf or onnx, or both with a comma between them"),
        ({"text_only": True}, "--text-only trains on the text that you give; name it with --text FILE"),
        (
            {"text_only": True, "texts": ["/a"], "prompts": "/p"},
            "--text-only lets the model write nothing, and --prompts makes it answer",
        ),
        ({"texts": ["/a", "/a"]}, "recipe recover: teach.text is a list; each entry may be there only once."),
    ],
)
def test_a_wrong_option_is_named(given: dict[str, object], words: str):
    with pytest.raises(InputError) as caught:
        recovery_recipe(RECIPE, Overrides(**given))
    assert words in str(caught.value)


def test_the_recipe_file_says_only_what_differs():
    from edgedistill.config.library import library_folder

    written = yaml.safe_load((library_folder("recipes") / "recover.yaml").read_text(encoding="utf-8"))
    assert "distill" not in written
    assert written["student"] == {"kind": "same"}
