"""The plan's numbers against gguf's and llama.cpp's, its words, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from edgedistill.config import Recipe, Target, load_recipe, load_target
from edgedistill.config.overrides import Overrides
from edgedistill.config.recovery import recovery_recipe
from edgedistill.errors import DoesNotFitError, InputError
from edgedistill.facts import ModelFacts, ModelShape, TokenizerFacts
from edgedistill.formats import FORMATS
from edgedistill.machine import compute_of
from edgedistill.mixes import MIXES
from edgedistill.models.facts import read_facts
from edgedistill.pipeline import make_plan
from edgedistill.pipeline.estimate import (
    FITTED_PER_S,
    PARAMETERS_PER_S,
    START_S,
    TRAIN_FLOPS_PER_CORE,
)
from edgedistill.pipeline.stage_memory import curvature_passes
from edgedistill.plan import BuildMachine, this_machine
from edgedistill.plan.here import here

MACHINE = BuildMachine(cores=2, free_memory_bytes=16 * 2**30, free_disk_bytes=100 * 2**30)
# SmolLM2-135M-Instruct, as its config.json has it.
SMOL = ModelShape(
    family="llama",
    layers=30,
    width=576,
    heads=9,
    kv_heads=3,
    head_dim=64,
    ffn=1536,
    vocab=49152,
    context=8192,
    tied=True,
    rope_theta=1e5,
    norm_eps=1e-5,
)


def facts_of(shape: ModelShape = SMOL, chat: bool = True) -> ModelFacts:
    tokenizer = TokenizerFacts("gpt2", "smollm", shape.vocab, chat)
    return ModelFacts(
        "SmolLM2", "org/SmolLM2", "/models/smol", "hf", shape, tokenizer, 2 * shape.parameters, "apache-2.0"
    )


def chat_recipe() -> Recipe:
    """The chat recipe with a student that nobody has to choose: nine tenths of the layers, in q4_0 and q8_0."""
    return Recipe.model_validate(load_recipe("chat").to_dict() | {"student": {"kind": "depth"}})


def recipe_with(**changes: dict[str, object]) -> Recipe:
    """The chat recipe with parts changed, its one teacher and its one phase in their short forms."""
    chat = chat_recipe().to_dict()
    chat["teacher"] = chat.pop("teachers")["teacher"]
    (chat["distill"],) = chat.pop("phases")
    return Recipe.model_validate({**chat, **{part: {**chat[part], **values} for part, values in changes.items()}})


def target_with(name: str = "laptop-cpu", **changes: dict[str, object]) -> Target:
    """A target with figures changed, in base units."""
    target = load_target(name)
    return target.model_copy(
        update={part: getattr(target, part).model_copy(update=values) for part, values in changes.items()}
    )


@pytest.fixture
def plan():
    return make_plan(chat_recipe(), load_target("laptop-cpu"), facts_of(), MACHINE)


def test_the_student_keeps_the_recipes_share_of_layers(plan):
    assert plan.student == SMOL.with_layers(27)
    assert (
        make_plan(recipe_with(student={"layers": 12}), load_target("phone"), facts_of(), MACHINE).student.layers == 12
    )


def test_parameters_are_those_that_transformers_counts(tiny_llama: Path):
    from transformers import AutoConfig, AutoModelForCausalLM

    found = make_plan(load_recipe("tiny"), load_target("phone"), read_facts(tiny_llama, "tiny"), MACHINE)
    config = AutoConfig.from_pretrained(tiny_llama)
    config.num_hidden_layers = found.student.layers
    config.layer_types = None
    assert found.student.layers == 3
    assert found.student.parameters == AutoModelForCausalLM.from_config(config).num_parameters()


def test_weight_bytes_are_gguf_pys_sizes(plan):
    for mix, planned in plan.mixes.items():
        total = 0
        for tensor in plan.student.tensors():
            kind = gguf.GGMLQuantizationType(FORMATS[plan.formats[mix][tensor.name]].ggml_type)
            block, size = gguf.GGML_QUANT_SIZES[kind]
            assert tensor.cols % block == 0
            total += tensor.rows * tensor.cols // block * size
        assert planned.weight_bytes == total
        assert sum(planned.grids.values()) == len(plan.formats[mix])


def test_the_embedding_is_finer_than_the_linear_layers(plan):
    assert plan.formats["q4_0"]["model.embed_tokens.weight"] == "q8_0"
    assert plan.formats["q4_0"]["model.layers.26.mlp.down_proj.weight"] == "q4_0"
    assert plan.mixes["q4_0"].grids == {"q8_0": 1, "f32": 55, "q4_0": 189}


def test_memory_is_what_llama_cpp_says_it_takes():
    # Its log for the uncut model at 2,048 tokens: KV buffer 45.00 MiB, compute buffer 99.38 MiB.
    whole = make_plan(recipe_with(student={"depth": 1.0}), load_target("laptop-cpu"), facts_of(), MACHINE).mixes["q4_0"]
    assert whole.kv_bytes == 45 * 2**20
    assert whole.compute_bytes == pytest.approx(99.38 * 2**20, rel=0.02)
    assert whole.ram_bytes == whole.weight_bytes + whole.kv_bytes + whole.compute_bytes + whole.runtime_bytes
    # The teacher's own GGUF file has 1.79 MB beside its tensors.
    assert whole.file_bytes - whole.weight_bytes == pytest.approx(1.79e6, rel=0.02)


def test_speeds_follow_the_formula(plan):
    mix, target = plan.mixes["q4_0"], plan.target
    table = 49152 * 576 * 34 // 32  # in q8_0, which is read at 0.73 of q4_0's cost a byte
    norms = 4 * 576 * (2 * plan.student.layers + 1)
    read = (mix.weight_bytes - table - norms) + 0.73 * table + 0.53 * norms
    assert mix.predicted_decode_tokens_per_s == pytest.approx(89.6e9 * 0.53 / read)
    assert mix.predicted_decode_full_context_tokens_per_s == pytest.approx(89.6e9 * 0.53 / (read + mix.kv_bytes))
    assert target.compute.flops is None
    assert mix.predicted_prefill_tokens_per_s is None
    gpu = make_plan(chat_recipe(), load_target("consumer-gpu"), facts_of(), MACHINE).mixes["q4_0"]
    assert gpu.predicted_prefill_tokens_per_s == pytest.approx(50.9e12 * 0.29 / (2 * plan.student.parameters))
    assert gpu.predicted_decode_tokens_per_s == pytest.approx(360e9 * 0.68 / gpu.weight_bytes)
    assert gpu.predicted_ttft_s == pytest.approx(
        512 / gpu.predicted_prefill_tokens_per_s + 1 / gpu.predicted_decode_tokens_per_s
    )


def test_an_untied_embedding_is_not_read_for_each_token():
    tied, untied = (
        make_plan(chat_recipe(), load_target("laptop-cpu"), facts_of(replace(SMOL, tied=tied)), MACHINE).mixes["q4_0"]
        for tied in (True, False)
    )
    assert untied.weight_bytes > tied.weight_bytes
    assert untied.predicted_decode_tokens_per_s == pytest.approx(tied.predicted_decode_tokens_per_s)


def test_a_short_model_is_planned_for_its_own_context():
    short = make_plan(recipe_with(), load_target("laptop-cpu"), facts_of(replace(SMOL, context=1024)), MACHINE)
    assert short.context == 1024
    assert short.mixes["q4_0"].kv_bytes == short.student.kv_bytes(1024)
    assert "Context" not in short.to_text()


def test_a_context_cut_to_what_llama_cpp_computes_alike_is_said():
    cut = replace(facts_of(replace(SMOL, context=4096)), stated_context=131072)
    text = make_plan(recipe_with(), load_target("laptop-cpu"), cut, MACHINE).to_text()
    assert "Context   4\u202f096 of the model's 131\u202f072 tokens: beyond them llama.cpp computes otherwise" in text


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (target_with(memory={"usable": 300 * 10**6}), "q8_0: needs 340 MB of memory, 300 MB are usable"),
        (target_with(limits={"file": 100 * 10**6}), "q8_0: the file has 134 MB, at most 100 MB are allowed"),
        (
            target_with(limits={"decode": 380.0}),
            "q8_0: at most 343 tokens/s with 2048 tokens of context, 380 tokens/s are wanted",
        ),
    ],
)
def test_one_mix_that_does_not_fit_is_said_and_the_other_goes_on(target: Target, why: str):
    found = make_plan(chat_recipe(), target, facts_of(), MACHINE)
    assert found.mixes["q4_0"].fits
    assert not found.mixes["q8_0"].fits
    assert why == f"q8_0: {found.mixes['q8_0'].why}"
    found.require_fit()
    assert "q4_0 fits laptop-cpu; q8_0 would be built too, but does not." in found.to_text()


def test_no_mix_that_fits_is_an_error_with_the_sum():
    found = make_plan(chat_recipe(), target_with("phone", memory={"usable": 200 * 2**20}), facts_of(), MACHINE)
    with pytest.raises(DoesNotFitError) as caught:
        found.require_fit()
    assert caught.value.exit_code == 3
    assert "q4_0 on phone: needs 292 MB of memory, 210 MB are usable = 84.0 MB weights + 42.5 MB KV" in str(
        caught.value
    )
    assert "Keep fewer layers (student.layers), or choose a smaller teacher." in str(caught.value)
    assert "It does not fit phone." in found.to_text()
    assert found.to_dict()["fits"] is False


def test_time_to_first_token_is_a_limit():
    slow = target_with("consumer-gpu", compute={"flops": 1e11}, limits={"ttft": 0.5})
    found = make_plan(chat_recipe(), slow, facts_of(), MACHINE)
    assert "to the first token, at most 0.50 s are allowed" in found.mixes["q4_0"].why


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (
            {"free_memory_bytes": 2**30},
            r"building it needs about .* GB of memory; 1\.07 GB are free here\. Close programs, or lower",
        ),
        (
            {"free_disk_bytes": 2**30},
            r"building it needs about .* GB of disk; 1\.07 GB are free there\. Free some, or choose",
        ),
    ],
)
def test_a_machine_that_is_too_small_is_an_error(machine: dict[str, int], words: str):
    found = make_plan(chat_recipe(), load_target("phone"), facts_of(), replace(MACHINE, **machine))
    with pytest.raises(DoesNotFitError, match=words):
        found.require_fit()
    assert "It does not fit this machine." in found.to_text()
    make_plan(chat_recipe(), load_target("phone"), facts_of(), BuildMachine(cores=2)).require_fit()


def test_the_demo_is_planned_within_its_promise():
    build = make_plan(load_recipe("demo"), load_target("laptop-cpu"), facts_of(), MACHINE).build
    assert build.ram_bytes < 6 * 2**30
    assert 60 < build.seconds < 35 * 60
    assert build.seconds == pytest.approx(sum(build.seconds_by_stage.values()))
    assert {"teach", "distill", "capture", "curvature", "recover-q4_0", "recover-q8_0"} <= set(build.tokens)
    assert build.ram_bytes == max(stage.ram_bytes for stage in build.stages.values())
    assert build.disk_bytes >= sum(stage.disk_bytes for stage in build.stages.values())
    more = make_plan(load_recipe("demo"), load_target("laptop-cpu"), facts_of(), replace(MACHINE, cores=4)).build
    # Twice the cores halve the training; the fit goes from column to column on one core.
    student = make_plan(load_recipe("demo"), load_target("laptop-cpu"), facts_of(), MACHINE).student
    fixed = START_S + student.parameters / FITTED_PER_S + student.parameters / PARAMETERS_PER_S["round"]
    seconds = [each.seconds_by_stage["recover-q4_0"] - fixed for each in (build, more)]
    assert seconds[1] == pytest.approx(seconds[0] / 2)


def test_grids_chosen_on_much_text_need_memory_for_its_logits():
    """8,192 tokens of SmolLM2's 49,152 words in float32 are 1.6 GB, beside the weights twice."""

    def needed(tokens: int) -> int:
        recipe = load_recipe("recover").to_dict() | {
            "define_mixes": {"own": {"auto": 4.5, "tokens": tokens}},
            "mixes": ["own"],
        }
        return make_plan(Recipe.model_validate(recipe), load_target("laptop-cpu"), facts_of(), MACHINE).build.ram_bytes

    assert needed(8192) > 900 * 2**20 + 8 * SMOL.parameters + 4 * 8192 * SMOL.vocab > needed(512)


def test_what_was_rejected_is_said_with_the_reason(plan):
    rejected = {other.what: other.why for other in plan.alternatives}
    assert rejected["q4_0, all 30 layers"] == "1.07 times the bytes; the recipe asks for 27 layers"
    assert rejected["f16, 27 layers"] == "2.9 times the bytes of q4_0, and the recipe doesn't ask for it"
    assert {other.mix for other in plan.alternatives} == {None, *MIXES} - {"q4_0", "q8_0"}
    assert "27 layers in mixes that the recipe doesn't ask for: tq2_0 78.4 MB, q3_k_s 82.6 MB, " in " ".join(
        plan.to_text().split()
    )
    small = make_plan(chat_recipe(), target_with(limits={"file": 150 * 2**20}), facts_of(), MACHINE)
    assert {o.what: o.why for o in small.alternatives}[
        "f16, 27 layers"
    ] == "the file has 250 MB, at most 157 MB are allowed"


@pytest.mark.parametrize(
    ("recipe", "facts", "words"),
    [
        (
            recipe_with(),
            facts_of(chat=False),
            r"recipe chat: teach.style is 'chat', but the teacher SmolLM2 has no chat template\. Set",
        ),
        (
            recipe_with(student={"layers": 31}),
            facts_of(),
            "the student would have 31 layers; SmolLM2, which is cut, has 30, so student",
        ),
        (recipe_with(student={"layers": 1}), facts_of(), "must be from 2 to 30"),
        (
            recipe_with(),
            facts_of(replace(SMOL, context=256)),
            "distill.seq_len is 512; the teacher SmolLM2 reads at most 256 tokens",
        ),
        (recipe_with(distill={"seq_len": 128}), facts_of(replace(SMOL, context=256)), "recover.seq_len is 512"),
        (
            recipe_with(distill={"seq_len": 128}, recover={"seq_len": 128}),
            facts_of(replace(SMOL, context=256)),
            r"teach.max_prompt_tokens \+ teach.max_answer_tokens is 416",
        ),
        (
            recipe_with(teacher={"top_k": 1000}),
            facts_of(replace(SMOL, vocab=256)),
            "teacher.top_k is 1000; the teacher SmolLM2 has 256",
        ),
        (
            recipe_with(),
            facts_of(replace(SMOL, head_dim=60)),
            "heads are 60 wide; onnxruntime's attention takes multiples of 8",
        ),
        (recipe_with(), facts_of(replace(SMOL, width=600)), "rows of 600 weights, which no grid of mix 'q4_0' divides"),
        (recipe_with(), facts_of(replace(SMOL, ffn=1000)), "mlp.down_proj.weight has rows of 1000 weights"),
        (
            recipe_with(teach={"text_window": 600}),
            facts_of(),
            "text_window is 600, and distill.seq_len 512: the end of every piece",
        ),
        (
            Recipe.model_validate(
                {**load_recipe("recover").to_dict(), "recover": {"loss": [{"kl": "forward", "towards": "teacher"}]}}
            ),
            facts_of(),
            "a term of recover.loss goes towards the teacher, but the student is the teacher itself",
        ),
        (recipe_with(measure={"prefill": 10_000}), facts_of(), "measure.prefill is 10000; the model reads at most"),
        (recipe_with(measure={"decode": 10_000}), facts_of(), "measure.decode is 10000; the model reads at most"),
        (recipe_with(teach={"prompts": "/none/p.jsonl"}), facts_of(), "/none/p.jsonl: there is no such prompts file"),
        (
            recipe_with(measure={"tasks": ("/none/q.jsonl",)}),
            facts_of(),
            "/none/q.jsonl: there is no such file of questions",
        ),
        (recipe_with(teach={"text": "/none/t.txt"}), facts_of(), "/none/t.txt: teach.text cannot be read"),
        (
            recipe_with(distill={"loss": [{"text": True}, {"states": "mse", "layers": [5, 28]}]}),
            facts_of(),
            r"recipe chat: distill.loss.1.layers has 28, and the student has 27 layers\. Choose at most that\.",
        ),
        (
            recipe_with(distill={"loss": [{"states": "mse", "layers": [5], "teacher_layers": [31]}]}),
            facts_of(),
            "distill.loss.0.teacher_layers has 31, and the teacher has 30 layers",
        ),
        (
            recipe_with(distill={"loss": [{"relations": ["vv"], "layer": 30}]}),
            facts_of(),
            "distill.loss.0.layer is 30, and the student has 27 layers",
        ),
        (
            recipe_with(distill={"loss": [{"relations": ["qq", "vv"], "heads": 9}]}),
            facts_of(),
            "distill.loss.0.heads is 9, and vectors of 192 elements don't divide into as many; choose a divisor",
        ),
    ],
)
def test_what_would_fail_later_fails_in_the_plan(recipe: Recipe, facts: ModelFacts, words: str):
    with pytest.raises(InputError, match=words):
        make_plan(recipe, load_target("laptop-cpu"), facts, MACHINE)


def test_what_a_loss_looks_at_inside_the_teacher_is_in_the_plan():
    """Two layers of 576 elements and a block's 15 heads of 64, two bytes each, for all tokens of the text; or the
    teacher in float32, where that is less.
    """
    loss = [{"text": True}, {"states": "mse", "layers": [9, 27]}, {"relations": ["qq"]}, {"states": "cosine"}]
    plain = make_plan(recipe_with(), load_target("phone"), facts_of(), MACHINE).build.stages
    stored = make_plan(recipe_with(distill={"loss": loss}), load_target("phone"), facts_of(), MACHINE).build.stages
    text_bytes = 2 * 48_000 * (2 * 576 + 576 + 15 * 64)
    assert stored["blocks"].disk_bytes == text_bytes
    beside = stored["distill"].ram_bytes - plain["distill"].ram_bytes
    relations = 1024 * 512 * 4 * 6 * 9
    assert beside == text_bytes + relations
    much = recipe_with(distill={"loss": loss}, teach={"tokens": 4_000_000})
    live = make_plan(much, load_target("phone"), facts_of(), MACHINE).build.stages
    assert "blocks" not in live
    assert live["distill"].ram_bytes - plain["distill"].ram_bytes == 4 * SMOL.parameters + relations
    assert live["distill"].seconds > plain["distill"].seconds
    wished = recipe_with(distill={"loss": loss}, teach={"tokens": 4_000_000}, teacher={"blocks": "stored"})
    assert "blocks" in make_plan(wished, load_target("phone"), facts_of(), MACHINE).build.stages


def test_files_that_the_recipe_names_are_read_in_the_plan(tmp_path: Path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": 5}\n')
    with pytest.raises(InputError, match=r"p\.jsonl:2: the prompt is a number"):
        make_plan(recipe_with(teach={"prompts": str(tmp_path / "p.jsonl")}), load_target("phone"), facts_of(), MACHINE)
    (tmp_path / "t.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"t\.txt: teach\.text is an empty file"):
        make_plan(recipe_with(teach={"text": str(tmp_path / "t.txt")}), load_target("phone"), facts_of(), MACHINE)
    (tmp_path / "t.txt").write_text("word " * 300)
    with pytest.raises(InputError, match=r"t\.txt: teach\.text has 1500 bytes, too few .* at least 2000"):
        make_plan(recipe_with(teach={"text": str(tmp_path / "t.txt")}), load_target("phone"), facts_of(), MACHINE)
    (tmp_path / "t.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"t\.txt: teach\.text is not a text in UTF-8"):
        make_plan(recipe_with(teach={"text": str(tmp_path / "t.txt")}), load_target("phone"), facts_of(), MACHINE)
    with pytest.raises(
        InputError, match=r"p\.jsonl: teach\.text names a \.jsonl file.*write its texts alone into a \.txt"
    ):
        make_plan(recipe_with(teach={"text": str(tmp_path / "p.jsonl")}), load_target("phone"), facts_of(), MACHINE)


def test_a_model_as_it_is_keeps_its_layers_and_is_not_distilled():
    found = make_plan(load_recipe("recover"), here(), facts_of(), MACHINE)
    assert found.student == SMOL
    assert "distill" not in found.build.tokens
    assert found.build.tokens["teach"] == 100_000
    assert found.recipe.teach.style == "chat"
    assert found.recipe.teach.text_window == found.recipe.recover.seq_len
    assert found.to_dict()["student"]["as_is"]
    assert "q4_0 fits this-machine." in found.to_text()


def test_a_model_without_a_template_writes_free_text_for_all_of_the_budget():
    found = make_plan(load_recipe("recover"), here(), facts_of(chat=False), MACHINE).recipe.teach
    assert (found.style, found.tokens, found.free_tokens) == ("text", 80_000, 0)


def test_this_machine_is_a_target_without_limits():
    import psutil

    target = here()
    assert target.memory.total == target.memory.usable == psutil.virtual_memory().total
    assert (target.limits.file, target.limits.decode, target.limits.ttft) == (None, None, None)
    assert (
        make_plan(load_recipe("recover"), target, facts_of(), MACHINE).mixes["q4_0"].predicted_decode_tokens_per_s
        is None
    )


@pytest.mark.parametrize("target", ["laptop-cpu", "consumer-gpu", "phone"])
def test_the_page_and_the_json_hold_what_was_planned(target: str):
    found = make_plan(chat_recipe(), load_target(target), facts_of(), MACHINE)
    whole = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert whole["teacher"]["source"] == "org/SmolLM2"
    assert whole["student"]["layers"] == 27
    assert whole["target"]["name"] == target
    assert whole["mixes"]["q4_0"]["tensors"]["model.norm.weight"] == "f32"
    assert whole["mixes"]["q4_0"]["why"].endswith("usable memory")
    text = found.to_text()
    for part in (
        "27 of 30 layers",
        found.target.title,
        "KV cache",
        "upper bounds",
        "85.7 MB",
        found.target.bandwidth.source.split()[0],
        "189 linear in q4_0",
        "Build on this machine",
        f"assuming 2 cores at {TRAIN_FLOPS_PER_CORE[compute_of('auto')] / 1e9:.0f} GFLOP/s each",
        "Rejected",
        "all 30 layers",
        f"q4_0 and q8_0 fit {target}.",
    ):
        assert part in text, part
    prose = [line for line in text.splitlines() if "tokens/s  " not in line]
    assert max(map(len, prose)) <= 100


def test_this_machine_counts_what_a_run_has_written_as_free(tmp_path: Path):
    before = this_machine(tmp_path / "not" / "yet")
    assert before.cores >= 1
    assert before.free_memory_bytes > 0
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"schema": "edgedistill.run/1", "identity": {}, "current": {}}')
    with (run / "weights").open("wb") as file:
        file.truncate(2**40)  # a hole: as large as it says, on no disk
    assert this_machine(run).free_disk_bytes - before.free_disk_bytes == pytest.approx(2**40, rel=0.01)


# Llama-3.1-8B and Qwen2.5-7B, as their config.json have them.
LLAMA_8B = ModelShape("llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, False, 500000.0, 1e-5)
QWEN_7B = ModelShape("qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 32768, False, 1e6, 1e-6, qkv_bias=True)


@pytest.mark.parametrize("shape", [LLAMA_8B, QWEN_7B])
def test_an_8b_is_fitted_in_22_gib_of_memory_and_60_of_disk(shape: ModelShape):
    """llama.cpp has the float file's pages in memory; all else of the run stays below them."""
    recipe = recovery_recipe(load_recipe("recover").with_teacher("org/big"), Overrides(tokens="0"))
    build = make_plan(recipe, here(), facts_of(shape, chat=False), BuildMachine(cores=2)).build
    assert build.ram_bytes < 22 * 2**30
    assert build.ram_bytes < 3 * shape.parameters
    assert build.disk_bytes < 60 * 2**30
    running = ("teach", "speeds", "measure-float-model")
    assert all(stage.ram_bytes < 2 * shape.parameters for name, stage in build.stages.items() if name not in running)
    # The layers' inputs are dropped when the curvature is measured; the float files stay to the end.
    assert build.stages["curvature"].scratch_bytes > 0
    assert build.disk_bytes >= sum(stage.disk_bytes for stage in build.stages.values()) > 4 * shape.parameters


def test_the_passes_in_which_curvature_is_measured_are_planned():
    """As many layers a pass as fit: seven matrices of 576 or 1,536 inputs a layer of SmolLM2, in float32."""
    layer_bytes = 4 * (6 * 576**2 + 1536**2)
    assert curvature_passes(SMOL, part_bytes=30 * layer_bytes) == 1
    assert curvature_passes(SMOL, part_bytes=10 * layer_bytes) == 3
    narrow, wide = (
        make_plan(load_recipe("demo"), load_target("laptop-cpu"), facts_of(shape), MACHINE).build.stages["curvature"]
        for shape in (SMOL, replace(SMOL, ffn=8192, width=2048, heads=32, kv_heads=8))
    )
    # What takes several passes is measured a layer at a time, in one, whose inputs lie on the disk meanwhile.
    assert wide.tokens == narrow.tokens
    assert (narrow.scratch_bytes, wide.scratch_bytes > 0) == (0, True)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"teach": {"answers": "own"}}, "teach.answers is 'own'"),
        ({"phases": [{"train": "teacher"}, {"train": "student"}]}, "a phase trains the teacher on labelled answers"),
    ],
)
def test_a_recipe_that_waits_for_labels_says_how_to_give_them(changes: dict[str, object], why: str):
    chat = chat_recipe().to_dict()
    teach = chat["teach"] | changes.get("teach", {})
    recipe = Recipe.model_validate(chat | changes | {"teach": teach})
    with pytest.raises(InputError, match=f"recipe chat: {why}, and no file brings answers. Give one with --data FILE"):
        make_plan(recipe, load_target("laptop-cpu"), facts_of(), MACHINE)
