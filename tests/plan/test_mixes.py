"""Mixes in the plan: what fell back and why, a recipe's own rules, sizes that are fitted, and what can't be done with a
student.
"""

from dataclasses import replace

import pytest

from edgedistill.config import Recipe, load_target
from edgedistill.errors import InputError
from edgedistill.facts import ModelShape
from edgedistill.pipeline import make_plan
from edgedistill.plan import Plan
from tests.plan.test_plan import MACHINE, SMOL, chat_recipe, facts_of


def mixed(mixes: list[str], **define: dict[str, object]) -> Recipe:
    """The chat recipe in these mixes, some of its own."""
    return Recipe.model_validate({**chat_recipe().to_dict(), "mixes": mixes, "define_mixes": define})


def plan_of(recipe: Recipe, shape: ModelShape = SMOL) -> Plan:
    """Its plan for a phone."""
    return make_plan(recipe, load_target("phone"), facts_of(shape), MACHINE)


def test_what_fell_back_is_shown_with_the_reason():
    found = plan_of(mixed(["q4_k_m"]))
    fell = {
        (e["wanted"], e["stored"]): (len(e["tensors"]), e["why"])
        for e in found.to_dict()["mixes"]["q4_k_m"]["fallbacks"]
    }
    assert fell == {
        ("q6_k", "q8_0"): (14, "rows of 576 don't divide by 256"),
        ("q4_k", "q5_0"): (149, "rows of 576 don't divide by 256"),
    }
    text = " ".join(found.to_text().split())
    assert (
        "q4_k_m: 1 embedding (also the output layer) in q8_0; 55 norm in f32; 149 linear in q5_0; 13 linear in q8_0"
        in text
    )
    assert (
        "163 tensors fell back: 14 from q6_k to q8_0, rows of 576 don't divide by 256; 149 from q4_k to q5_0, rows of"
        in text
    )
    wide = plan_of(mixed(["a"], a={"base": "q4_k_m"}), replace(SMOL, width=512, heads=8, kv_heads=2))
    assert wide.mixes["a"].fallbacks == []
    assert "fell back" not in wide.to_text()


def test_rules_of_a_recipe_decide_over_its_base():
    rules = [
        {"tensors": "*.mlp.*", "grid": "q5_1"},
        {"tensors": "*.down_proj.weight", "grid": "q6_k", "layers": "0-1,25-"},
        {"tensors": "model.embed_tokens.weight", "grid": "q4_1"},
    ]
    formats = plan_of(mixed(["small"], small={"base": "q4_0", "rules": rules})).formats["small"]
    down = [formats[f"model.layers.{layer}.mlp.down_proj.weight"] for layer in (0, 1, 2, 24, 25, 26)]
    assert down == ["q6_k", "q6_k", "q5_1", "q5_1", "q6_k", "q6_k"]
    assert formats["model.layers.5.mlp.up_proj.weight"] == "q5_1"
    assert formats["model.layers.5.self_attn.q_proj.weight"] == "q4_0"
    assert formats["model.embed_tokens.weight"] == "q4_1"
    assert formats["model.layers.5.post_attention_layernorm.weight"] == "f32"


def test_rows_that_no_grid_divides_may_be_left_in_f16_by_a_rule():
    odd = replace(SMOL, ffn=1500)
    with pytest.raises(
        InputError, match="has rows of 1500 weights, which no grid of mix 'a' divides; llama.cpp would leave it in f16"
    ):
        plan_of(mixed(["a"], a={"base": "q4_k_m"}), odd)
    rule = {"tensors": "*.down_proj.weight", "grid": "f16"}
    found = plan_of(mixed(["a"], a={"base": "q4_k_m", "rules": [rule]}), odd)
    assert {other.mix for other in found.alternatives} == {None, "f16", "bf16"}
    formats = found.formats["a"]
    assert formats["model.layers.3.mlp.down_proj.weight"] == "f16"
    assert formats["model.layers.3.mlp.up_proj.weight"] == "q5_0"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            {"tensors": "*.o_proj.weight", "grid": "q6_k"},
            r"mix 'a', rule 1: model.layers.0.self_attn.o_proj.weight has rows of 576 weights, and q6_k "
            r"stores blocks of 256. Give it one of "
            r"f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl, mxfp4, or narrow tensors: '\*.o_proj.weight'\.",
        ),
        (
            {"tensors": "*.ffn_down.weight", "grid": "q8_0"},
            r"rule 1: tensors: '\*.ffn_down.weight' matches none of the student's 245 tensors. They have "
            r"names like model.embed_tokens.weight,"
            r" model.layers.0.self_attn.q_proj.weight, ",
        ),
        (
            {"tensors": "*norm*", "grid": "q8_0"},
            r"rule 1: tensors: '\*norm\*' matches only norms and biases, which always stay f32",
        ),
        (
            {"tensors": "*", "grid": "q8_0", "layers": "27-"},
            (
                r"rule 1: no tensor that matches '\*' is in layers '27-'; the student has layers 0 to 26, and "
                r"tables belong to none"
            ),
        ),
    ],
)
def test_a_rule_that_cannot_be_followed_fails_in_the_plan(rule: dict[str, str], words: str):
    with pytest.raises(InputError, match=words):
        plan_of(mixed(["a"], a={"base": "q4_0", "rules": [rule]}))


def test_a_fitted_mix_is_planned_at_the_most_that_it_may_be():
    found = plan_of(mixed(["a", "b"], a={"auto": 4.6}, b={"auto": "75 MB", "grids": ["q4_0", "q8_0"]}))
    assert found.mixes["a"].weight_bytes == int(4.6 * found.student.parameters / 8)
    assert found.mixes["b"].weight_bytes == 75_000_000
    assert found.formats["a"] == {}
    # 27 layers of q+k, v, o, gate+up (four 32-block grids) and down (all nine), and the embedding.
    assert found.mixes["a"].fitted.groups == 27 * 5 + 1
    assert found.mixes["a"].fitted.choices == 27 * (4 * 4 + 9) + 4
    assert found.mixes["b"].fitted.choices == 2 * (27 * 5 + 1)
    # What each grid costs is foretold by curvature; without it, there is one series of measurements for both.
    assert found.build.tokens["sensitivity"] == 512
    recipe = mixed(["a", "b"], a={"auto": 4.6}, b={"auto": "75 MB", "grids": ["q4_0", "q8_0"]})
    measured = plan_of(recipe.model_copy(update={"recover": recipe.recover.model_copy(update={"fit": "importance"})}))
    assert measured.build.tokens["sensitivity"] == 512 * (27 * (4 * 4 + 9) + 4)
    assert measured.build.seconds_by_stage["sensitivity"] > 2 * found.build.seconds_by_stage["sensitivity"]
    text = " ".join(found.to_text().split())
    assert (
        "a: chosen by cost from q2_k, q3_k, q4_0, q4_k, iq4_nl, q5_0, q5_k, q6_k, q8_0, as far as rows divide, so"
        in text
    )
    assert "sensitivity" in text


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (
            {"auto": 3.0},
            (
                r"mix 'a': auto allows 46.5 MB for all weights; with the smallest of its grids they take .* bits "
                r"a weight. Allow"
            ),
        ),
        (
            {"auto": 9, "grids": ["q2_k", "q6_k"]},
            (
                r"mix 'a': model.embed_tokens.weight has rows of 576 weights, which none of its grids \(q2_k, "
                r"q6_k\) stores. Add one of 32-block"
            ),
        ),
    ],
)
def test_a_size_that_no_choice_reaches_fails_in_the_plan(mix: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        plan_of(mixed(["a"], a=mix))
