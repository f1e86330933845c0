"""Students that start from another model: what the plan makes of a pair, its words, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgedistill.config import Recipe, load_target
from edgedistill.config.loss import TextTerm
from edgedistill.errors import InputError
from edgedistill.facts import ModelFacts
from edgedistill.models.facts import read_facts
from edgedistill.models.shared_rows import other_words
from edgedistill.models.vocabulary import read_vocabulary
from edgedistill.pipeline.prepare import Job, Prepared, prepare
from edgedistill.pipeline.stage import Stage
from edgedistill.pipeline.start import read_start
from tests import tiny
from tests.pairs import OWN_CHATS, make_sibling, make_words
from tests.plan.test_plan import MACHINE, facts_of, recipe_with

QWEN = {
    "model_type": "qwen2",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
}
QWEN_7B = QWEN | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
QWEN_1_5B = QWEN | {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


def config_alone(folder: Path, config: dict[str, object], license: str) -> Path:
    """A model of which only config and tokenizer are here, as of a hub model that is planned with."""
    make_words(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text(f"---\nlicense: {license}\n---\n")
    return folder


def planned(teacher: ModelFacts, student: dict[str, object], **changes: dict[str, object]) -> Prepared:
    chat = recipe_with(**changes).to_dict() | {"student": student}
    recipe = Recipe.model_validate(chat)
    start = read_start(recipe.student, teacher, config_only=True)
    return prepare(Job(recipe, load_target("laptop-cpu"), Path("out")), teacher, MACHINE, None, start)


def small(**changes: object) -> dict[str, dict[str, object]]:
    """Parts of a recipe for models of 256 tokens of context."""
    return {
        "teach": {"max_prompt_tokens": 24, "max_answer_tokens": 48, **changes},
        "distill": {"seq_len": 64, "batch_tokens": 128},
        "recover": {"seq_len": 64, "batch_tokens": 128},
        "measure": {"prefill": 32, "decode": 16},
    }


@pytest.fixture
def teacher(tiny_llama: Path) -> ModelFacts:
    return replace(read_facts(tiny_llama, "teacher"), name="teacher", license="apache-2.0")


def test_a_pair_of_qwens_shapes_is_planned_by_its_configs_alone(tmp_path: Path):
    """7B teaches 1.5B: other padding rows behind the same words, the teacher untied and the student tied."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    big = config_alone(tmp_path / "Qwen2.5-7B-Instruct", QWEN_7B, "apache-2.0")
    little = config_alone(tmp_path / "Qwen2.5-1.5B-Instruct", QWEN_1_5B, "qwen-research")
    facts = read_facts(big, str(big), config_only=True)
    prepared = planned(facts, {"kind": "sibling", "model": str(little)})
    with torch.device("meta"):
        expected = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(little)).num_parameters()
    plan, context = prepared.plan, prepared.context
    assert plan.student.parameters == expected == 1_543_714_304
    assert (plan.student.tied, plan.student.vocab, facts.shape.tied) == (True, 151936, False)
    assert plan.recipe.phases[0].compares
    assert context.recipe.top_k == 64
    assert (context.student_name, context.metadata("q4_0", "x")["license"]) == (
        "Qwen2.5-1.5B-Instruct distilled",
        "qwen-research",
    )
    text = " ".join(plan.to_text().split())
    assert "Start Qwen2.5-1.5B-Instruct: the teacher's words, qwen-research" in text
    assert plan.notes == ()
    assert {"teach", "student", "distill", "reference-teacher"} <= {stage.name for stage in prepared.stages}
    assert plan.to_dict()["student"]["start"]["same_words"] is True


def test_the_students_own_files_are_in_its_key_and_the_teachers_arent(teacher: ModelFacts, tmp_path: Path):
    sibling = make_sibling(tmp_path / "sibling", padding=32)
    stages = {
        stage.name: stage for stage in planned(teacher, {"kind": "sibling", "model": str(sibling)}, **small()).stages
    }
    assert {name: place.place for name, place in stages["student"].outside.items()} == {"start": sibling}
    assert stages["distill"].inputs == ("student", "teach")
    assert "student-text" not in stages


def test_a_student_with_other_words_learns_the_text_alone(teacher: ModelFacts, tmp_path: Path):
    sibling = make_sibling(tmp_path / "sibling", vocab=400)
    prepared = planned(teacher, {"kind": "sibling", "model": str(sibling)}, **small())
    assert prepared.plan.recipe.phases[0].loss == (TextTerm(text=True),)
    assert prepared.context.recipe.top_k == 0
    stages = {stage.name: stage for stage in prepared.stages}
    assert "reference-teacher" not in stages
    assert stages["distill"].inputs == ("student", "student-text")
    assert "student-text" in stages["judges"].inputs
    assert stages["measure-teacher"].inputs == ("judges",)
    first, second = prepared.plan.notes
    assert first == (
        "sibling has other words than the teacher teacher (512 and 400 words): it learns from the teacher's text "
        "alone, written in its own tokens and chat template; the recipe's loss was left at its default, and became "
        "the text"
    )
    assert second == "nothing is compared with teacher token by token: its perplexity is given per token of sibling"
    text = planned(teacher, {"kind": "sibling", "model": str(sibling)}, **_with_loss([{"text": True}]))
    assert "left at its default" not in text.plan.notes[0]


def _with_loss(loss: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    parts = small()
    return parts | {"distill": parts["distill"] | {"loss": loss}}


def test_a_loss_that_other_words_cant_follow_is_refused_in_a_sentence(teacher: ModelFacts, tmp_path: Path):
    student = {"kind": "sibling", "model": str(make_sibling(tmp_path / "sibling", vocab=400))}
    differ = r"the student sibling has other words than the teacher teacher \(512 and 400 words\), so there is nothing"
    with pytest.raises(
        InputError, match=rf"recipe chat: distill\.loss looks at the teacher's own values, and {differ}"
    ):
        planned(teacher, student, **_with_loss([{"kl": "reverse"}]))
    for loss in ([{"text": True}, {"states": "mse"}], [{"relations": ["vv"]}]):
        with pytest.raises(InputError, match=rf"distill\.loss looks at the teacher's own values, and {differ}"):
            planned(teacher, student, **_with_loss(loss))
    rounds = small()
    rounds["distill"] = rounds["distill"] | {"on_policy": {"every": 5}}
    with pytest.raises(
        InputError, match=rf"distill\.on_policy has the teacher read what the student writes, and {differ}"
    ):
        planned(teacher, student, **rounds)
    parts = small()
    parts["recover"] = parts["recover"] | {"loss": [{"kl": "forward", "towards": "teacher"}]}
    with pytest.raises(InputError, match=rf"a term of recover\.loss goes towards the teacher, and {differ}"):
        planned(teacher, student, **parts)


def test_the_same_words_in_other_chats_are_compared_and_put_into_these(teacher: ModelFacts, tmp_path: Path):
    sibling = make_sibling(tmp_path / "sibling", template=OWN_CHATS)
    prepared = planned(teacher, {"kind": "sibling", "model": str(sibling)}, **small())
    stages = {stage.name: stage for stage in prepared.stages}
    assert {"student-text", "reference-teacher"} <= set(stages)
    assert prepared.plan.recipe.phases[0].compares
    (note,) = prepared.plan.notes
    assert note.startswith("sibling has the teacher's words in chats of its own")
    rounds = small()
    rounds["distill"] = rounds["distill"] | {"on_policy": {"every": 5}}
    for parts in (rounds, _with_loss([{"text": True}, {"states": "cosine"}])):
        notes = planned(teacher, {"kind": "sibling", "model": str(sibling)}, **parts).plan.notes
        assert notes[1].endswith("chats in the template of sibling, which isn't the one that it was trained in")


def test_a_students_shorter_context_bounds_what_it_reads(teacher: ModelFacts, tmp_path: Path):
    student = {"kind": "sibling", "model": str(make_sibling(tmp_path / "sibling", context=48))}
    with pytest.raises(InputError, match=r"distill\.seq_len is 64; the student sibling reads at most 48 tokens"):
        planned(teacher, student, **small())


def test_a_student_without_a_chat_template_doesnt_chat(teacher: ModelFacts, tmp_path: Path):
    student = {"kind": "sibling", "model": str(make_sibling(tmp_path / "sibling", template=None))}
    with pytest.raises(InputError, match=r"teach\.style is 'chat', but the student sibling has no chat template"):
        planned(teacher, student, **small())
    assert planned(teacher, student, **small(style="auto")).plan.recipe.teach.style == "text"


def test_a_sibling_that_isnt_there_or_a_run_that_is_none_is_named(teacher: ModelFacts, tmp_path: Path):
    with pytest.raises(InputError, match="no such file or folder"):
        planned(teacher, {"kind": "sibling", "model": str(tmp_path / "none")}, **small())
    sibling = make_sibling(tmp_path / "sibling")
    with pytest.raises(InputError, match=r"student\.path is '.*', which is no run folder; name another model with"):
        planned(teacher, {"kind": "run", "path": str(sibling)}, **small())


def test_what_is_cut_may_be_another_model(teacher: ModelFacts, tmp_path: Path):
    deeper = tiny.make_tiny_llama(tmp_path / "deeper", layers=6, seed=5)
    prepared = planned(teacher, {"kind": "depth", "layers": 3, "of": str(deeper)}, **small())
    assert prepared.plan.student.layers == 3
    assert "3 of 6 layers" in prepared.plan.to_text()
    (student,) = (stage for stage in prepared.stages if stage.name == "student")
    assert student.outside["start"].place == deeper
    assert student.settings["student"] == {"kind": "depth", "layers": 3, "depth": 0.9}, "its content counts, not where"
    assert student.settings["start"] == {"name": "deeper", "license": None, "lineage": []}


def test_padding_rows_are_no_words(tiny_llama: Path, tmp_path: Path):
    ours, others = read_vocabulary(tiny_llama), read_vocabulary(make_sibling(tmp_path / "sibling", padding=32))
    assert other_words(ours, others) is None
    changed = replace(others, tokens=("other", *others.tokens[1:]))
    assert other_words(ours, changed) == f"id 0 is {ours.tokens[0]!r} and 'other'"


def test_a_recipe_names_a_sibling_beside_it(teacher: ModelFacts, tmp_path: Path):
    from edgedistill.config import load_recipe

    shutil.copytree(make_sibling(tmp_path / "made"), tmp_path / "recipes" / "little")
    path = tmp_path / "recipes" / "mine.yaml"
    path.write_text("schema: edgedistill.recipe/1\nname: mine\nstudent: {kind: sibling, model: little}\n")
    assert load_recipe(str(path)).student.start == (str(tmp_path / "recipes" / "little"), None)
    path.write_text("schema: edgedistill.recipe/1\nname: mine\nstudent: {kind: sibling, model: org/little}\n")
    assert load_recipe(str(path)).student.start == ("org/little", None)


@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        (
            {"rank": 600},
            r"distill\.adapter: rank is 600, above what q_proj \(576 x 576\) has; at most 576",
        ),
        ({"targets": ["atn.q_proj"]}, r"distill\.adapter: targets names 'atn\.q_proj', and no matrix of a layer"),
    ],
)
def test_an_adapter_that_the_student_cant_have_is_refused_in_the_plan(adapter: dict[str, object], why: str):
    recipe = recipe_with(distill={"adapter": adapter})
    with pytest.raises(InputError, match=why):
        prepare(Job(recipe, load_target("laptop-cpu"), Path("out")), facts_of(), MACHINE)


def test_an_adapter_of_a_student_with_new_tables_is_refused():
    recipe = Recipe.model_validate(
        recipe_with(distill={"adapter": {"rank": 4}}).to_dict() | {"student": {"kind": "width", "width": 384}}
    )
    with pytest.raises(InputError, match="a student of kind width has an embedding of its own"):
        prepare(Job(recipe, load_target("laptop-cpu"), Path("out")), facts_of(), MACHINE)


def test_an_adapter_is_in_its_phases_key_and_takes_less_memory():
    def distilling(**phase: object) -> Stage:
        job = Job(recipe_with(distill=phase), load_target("laptop-cpu"), Path("out"))
        return next(stage for stage in prepare(job, facts_of(), MACHINE).stages if stage.name == "distill")

    plain, adapted = distilling(), distilling(adapter={"rank": 8})
    assert "adapter" not in plain.settings["phase"], "a phase without one keeps its key"
    assert adapted.settings["phase"]["adapter"] == {"kind": "lora", "rank": 8, "alpha": None, "targets": None}
    assert adapted.estimate.ram_bytes < plain.estimate.ram_bytes
