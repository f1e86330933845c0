"""Narrower students of every family: against transformers' own model with what was cut set to 0."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgedistill.config.students.both import DepthWidthStudent
from edgedistill.config.students.width import WidthStudent
from edgedistill.facts import ModelShape, allowed_layers
from edgedistill.families import FAMILIES
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.hf_weights import check_weights
from edgedistill.models.load import load_model
from edgedistill.models.students.build import build_student
from edgedistill.models.students.importance import Importance, measure_importance
from edgedistill.models.students.narrow import Kept, choose_kept, narrowed
from edgedistill.models.students.origin import Origin
from edgedistill.progress import QuietProgress
from tests.tiny import make_tiny

IDS = torch.arange(3, 63).view(1, 60)
TEXTS = [torch.arange(3, 63), torch.arange(100, 171)]
SQUARE = [family.name for family in FAMILIES.values() if family.square]


def heads_of(family: str) -> dict[str, int]:
    """A cut of heads that every family takes."""
    return {"heads": 2, "kv_heads": 1} if family not in SQUARE else {"heads": 2}


def built(folder: Path, out: Path, texts=TEXTS, **settings: object) -> Path:
    student = WidthStudent.model_validate({"kind": "width", **settings})
    shape = read_shape(folder)
    student.check("recipe r", "T", shape)
    student = student.decided(shape, 32)
    build_student(student, Origin(folder, "S", texts=iter(texts)), out, QuietProgress())
    assert read_shape(out) == student.shape(shape)
    check_weights(out, read_shape(out))
    return out


def loaded(folder: Path) -> torch.nn.Module:
    """As transformers loads it, without a missing or an unexpected key."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert {key: list(names) for key, names in info.items()} == dict.fromkeys(info, [])
    return model.eval()


def kept_of(folder: Path) -> Kept:
    found = json.loads((folder / "channels.json").read_text())
    layers = found["layers"]
    return Kept(*([layer[key] for layer in layers] for key in ("ffn", "heads", "kv_heads")), found["width"])


def masked(folder: Path, kept: Kept, squares: dict[str, torch.Tensor]) -> torch.nn.Module:
    """transformers' own model with what isn't kept set to 0, and its norms told of it.

    Where n of N input channels of a norm are 0, its mean square is n / N of theirs: with eps · n / N too and the output
    times the root of n / N, the norm is that of the n channels alone.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    family, config = FAMILIES[model.config.model_type], model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = torch.zeros(config.hidden_size)
    width[list(kept.width)] = 1

    def norm(name: str, module: torch.nn.Module, there: torch.Tensor) -> None:
        share = there.mean().item()
        if share == 1:
            return
        factor = (squares[name] * there).sum() / there.sum()  # as measured, against a mean over all of 1
        offset = 1.0 if family.norm_offset else 0.0
        module.weight.data = (module.weight.data + offset) * (factor * share).sqrt().float() * there - offset
        epsilon = "eps" if hasattr(module, "eps") else "variance_epsilon"
        setattr(module, epsilon, getattr(module, epsilon) * share)

    def zero_rows(linear: torch.nn.Linear, there: torch.Tensor) -> None:
        linear.weight.data *= there[:, None]
        if linear.bias is not None:
            linear.bias.data *= there

    with torch.no_grad():
        for index, layer in enumerate(model.model.layers):
            at = f"model.layers.{index}"
            ffn = torch.zeros(config.intermediate_size)
            ffn[list(kept.ffn[index])] = 1
            layer.mlp.down_proj.weight *= ffn
            queries, keys = (torch.zeros(n) for n in (config.num_attention_heads, config.num_key_value_heads))
            queries[list(kept.heads[index])], keys[list(kept.kv_heads[index])] = 1, 1
            queries, keys = queries.repeat_interleave(head_dim), keys.repeat_interleave(head_dim)
            attention = layer.self_attn
            attention.o_proj.weight *= queries
            if family.head_norms == "all":
                zero_rows(attention.q_proj, queries)
                zero_rows(attention.k_proj, keys)
                norm(f"{at}.self_attn.q_norm", attention.q_norm, queries)
                norm(f"{at}.self_attn.k_norm", attention.k_norm, keys)
            zero_rows(attention.o_proj, width)
            zero_rows(layer.mlp.down_proj, width)
            for name, module in layer.named_children():
                if name.endswith("norm"):
                    norm(f"{at}.{name}", module, width)
        model.model.norm.weight.data = model.model.norm.weight.data.clone()
        norm("model.norm", model.model.norm, width)
        # The table's channels that are cut reach nothing: the norms behind them are 0 there.
        model.get_input_embeddings().weight *= width
    return model


def close(cut: torch.nn.Module, by_hand: torch.nn.Module) -> None:
    with torch.no_grad():
        found, expected = (model(IDS, use_cache=False).logits for model in (cut, by_hand))
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


def cuts_of(family: str) -> list[dict[str, object]]:
    cuts: list[dict[str, object]] = [{"ffn": 32}, {"ffn": 64, **heads_of(family)}, {"width": 32}, {"kv_heads": 1}]
    if family not in SQUARE:
        cuts += [{"heads": 2}, {"ffn": 64, "kv_heads": 1, "width": 32, "importance": "gradient"}]
    return cuts


CASES = [
    pytest.param(family, cut, id=f"{family} {' '.join(f'{key}={value}' for key, value in cut.items())}")
    for family in FAMILIES
    for cut in cuts_of(family)
]


@pytest.mark.parametrize(("family", "cut"), CASES)
def test_a_narrower_student_is_its_teacher_with_the_rest_set_to_zero(family, cut, tmp_path):
    folder = make_tiny(family, tmp_path / "teacher")
    student = built(folder, tmp_path / "student", **cut)
    importance = measure_importance(
        load_model(folder), [text[None] for text in TEXTS], cut.get("importance", "activations")
    )
    close(loaded(student), masked(folder, kept_of(student), importance.squares))


def hand_importance(folder: Path, layer: int, head_dim: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ a² · ‖w‖² of a layer's FFN channels and Σ ‖W a‖² of its heads over IDS, in float64 loops."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    seen: dict[str, torch.Tensor] = {}
    for name in ("mlp.down_proj", "self_attn.o_proj"):
        module = model.model.layers[layer].get_submodule(name)
        module.register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0][0].detach()}))
    with torch.no_grad():
        model(IDS)
    down, out = (model.model.layers[layer].get_submodule(name).weight.detach() for name in seen_names())
    ffn = torch.stack(
        [sum(a**2 * down[:, c].norm() ** 2 for a in seen["mlp.down_proj"][:, c]) for c in range(down.shape[1])]
    )
    heads = []
    for head in range(out.shape[1] // head_dim):
        part = slice(head * head_dim, (head + 1) * head_dim)
        heads.append(sum((out[:, part] @ a).norm() ** 2 for a in seen["self_attn.o_proj"][:, part]))
    return ffn, torch.stack(heads)


def seen_names() -> tuple[str, str]:
    return "mlp.down_proj", "self_attn.o_proj"


def test_importance_by_activations_is_the_sum_over_tokens(tiny_llama):
    importance = measure_importance(load_model(tiny_llama), [IDS[:, :30], IDS[:, 30:]], "activations")
    whole = measure_importance(load_model(tiny_llama), [IDS], "activations")
    ffn, heads = hand_importance(tiny_llama, layer=2)
    assert torch.allclose(whole.ffn[2], ffn, rtol=1e-4)
    assert torch.allclose(whole.heads[2], heads, rtol=1e-4)
    assert (importance.tokens, whole.tokens) == (60, 60)
    model = load_model(tiny_llama)
    with torch.no_grad():
        embedded = model.model.embed_tokens(IDS)[0].double().square()
        found = whole.squares["model.layers.0.input_layernorm"]
        assert torch.allclose(found, (embedded / embedded.mean(1, keepdim=True)).mean(0), rtol=1e-5)
        states = model(IDS, output_hidden_states=True).hidden_states
        expected = sum(
            layer.input_layernorm(state).square().sum((0, 1))
            for layer, state in zip(model.model.layers, states, strict=False)
        )
        left = whole.width - expected - states[-1].square().sum((0, 1))  # the MLPs' inputs
    assert (left > 0).all()


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "granite", "phi3"])
def test_importance_by_gradient_is_that_of_a_mask_a_token(family, tmp_path):
    """d loss / d mask, where each token's channel is multiplied by a mask of 1, with transformers' own loss."""
    folder = make_tiny(family, tmp_path / "model")
    importance = measure_importance(load_model(folder), [IDS], "gradient")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    layer = model.model.layers[1]
    masks: dict[str, torch.Tensor] = {}

    def masking(name: str, split: int):
        def hook(module, args):
            x = args[0].unflatten(-1, (-1, split))
            masks[name] = torch.ones(x.shape[:-1], dtype=torch.float64, requires_grad=True)
            return ((x * masks[name][..., None]).flatten(-2),)

        return hook

    head_dim = read_shape(folder).head_dim
    layer.mlp.down_proj.register_forward_pre_hook(masking("ffn", 1))
    layer.self_attn.o_proj.register_forward_pre_hook(masking("heads", head_dim))
    loss = model(input_ids=IDS, labels=IDS).loss * (IDS.shape[1] - 1)
    loss.backward()
    assert torch.allclose(importance.ffn[1], masks["ffn"].grad.square().sum((0, 1)), rtol=2e-3, atol=1e-7)
    assert torch.allclose(importance.heads[1], masks["heads"].grad.square().sum((0, 1)), rtol=2e-3, atol=1e-7)


def test_importance_leaves_the_model_as_it_was(tiny_llama):
    model = load_model(tiny_llama)
    modules = list(model.modules())
    for by in ("activations", "gradient"):
        measure_importance(model, [IDS], by)
        with pytest.raises(ValueError, match="importance needs at least one batch"):
            measure_importance(model, [], by)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


SHAPE = ModelShape("llama", 1, 8, 6, 3, 4, 5, 96, 64, tied=True, rope_theta=1e4, norm_eps=1e-5)


def test_whole_groups_stay_and_as_many_queries_of_each():
    scores = torch.tensor([1.0, 9, 4, 3, 5, 5])  # groups of 10, 7 and 10
    importance = Importance([torch.tensor([3.0, 1, 3, 2, 5])], [scores], torch.tensor([0.0, 1, 0, 3, 0, 2, 0, 0]))

    def kept(heads: int, kv_heads: int) -> tuple[object, ...]:
        found = choose_kept(importance, SHAPE, SHAPE.with_sizes(3, heads, kv_heads, 2))
        return found.kv_heads, found.heads

    assert kept(4, 2) == ([[0, 2]], [[0, 1, 4, 5]])
    assert kept(2, 1) == ([[0]], [[0, 1]])
    assert kept(3, 3) == ([[0, 1, 2]], [[1, 2, 4]])
    assert kept(1, 1) == ([[0]], [[1]])  # of one query each, the first group's is the largest
    found = choose_kept(importance, SHAPE, SHAPE.with_sizes(3, 6, 3, 2))
    assert (found.ffn, found.width) == ([[0, 4]], [1, 3, 5])
    with pytest.raises(ValueError, match="2 groups of 3 heads can't be taken from 3 groups of 2"):
        kept(6, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ffn": [[0, 128]]}, "FFN channels to keep must be rising indices from 0 to 127"),
        ({"heads": [[1, 0]]}, "^heads to keep must be rising indices from 0 to 3"),
        ({"kv_heads": [[]]}, "key heads to keep"),
        ({"width": [0, 0]}, "hidden channels to keep must be rising indices from 0 to 63"),
    ],
)
def test_what_is_kept_must_be_there(changes, said, tiny_llama):
    kept = {"ffn": [[0]], "heads": [[0]], "kv_heads": [[0]], "width": [0], **changes}
    with pytest.raises(ValueError, match=said):
        narrowed(load_model(tiny_llama), Kept(**kept), {})


def test_a_narrower_student_says_what_it_is(tiny_llama, tmp_path):
    student = built(tiny_llama, tmp_path / "s", share=0.5)
    identity = json.loads((student / "student.json").read_text())
    assert (identity["name"], identity["kind"]) == ("S", "width")
    kept = kept_of(student)
    shape = read_shape(student)
    assert [len(channels) for channels in kept.ffn] == [shape.ffn] * 4
    assert [len(heads) for heads in kept.heads] == [shape.heads] * 4
    again = built(tiny_llama, tmp_path / "again", share=0.5)
    assert (again / "model.safetensors").read_bytes() == (student / "model.safetensors").read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choose", ["influence", "contiguous"])
def test_fewer_and_narrower_layers_are_those_of_the_teacher(family, choose, tmp_path):
    changes = {"num_hidden_layers": 9} if family == "smollm3" else {}
    folder = make_tiny(family, tmp_path / "teacher", **changes)
    shape = read_shape(folder)
    layers = max(count for count in allowed_layers(shape) if count < shape.layers)
    given = DepthWidthStudent.model_validate({"kind": "depth+width", "layers": layers, "ffn": 32, "choose": choose})
    given.check("recipe r", "T", shape)
    student = given.decided(shape, 32)
    build_student(student, Origin(folder, "S", texts=iter(TEXTS)), tmp_path / "student", QuietProgress())
    assert read_shape(tmp_path / "student") == student.shape(shape)
    kept = json.loads((tmp_path / "student" / "layers.json").read_text())["kept"]
    channels = kept_of(tmp_path / "student")
    by_hand = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    by_hand.model.layers = torch.nn.ModuleList([by_hand.model.layers[index] for index in kept])
    by_hand.config.num_hidden_layers = by_hand.model.config.num_hidden_layers = len(kept)
    with torch.no_grad():
        for layer, ffn in zip(by_hand.model.layers, channels.ffn, strict=True):
            there = torch.zeros(shape.ffn)
            there[list(ffn)] = 1
            layer.mlp.down_proj.weight *= there
    close(loaded(tmp_path / "student"), by_hand)
