"""Block influence against an independent computation, and the model that is cut out."""

import json
import math

import pytest
import torch

from edgedistill.config.students.depth import DepthStudent
from edgedistill.models.load import load_model
from edgedistill.models.students.build import build_student
from edgedistill.models.students.contiguous import angular_distances, choose_contiguous
from edgedistill.models.students.depth import block_influence, choose_layers, cut_layers
from edgedistill.models.students.origin import Origin
from edgedistill.progress import QuietProgress

BATCHES = [torch.arange(3, 63).view(2, 30), torch.arange(100, 117).view(1, 17)]


@pytest.fixture(scope="module")
def model(tiny_llama):
    return load_model(tiny_llama)


def test_influence_is_one_minus_the_mean_cosine_before_the_final_norm(model):
    sums, tokens = [0.0] * 4, 0
    with torch.no_grad():
        for ids in BATCHES:
            hidden = model.model.embed_tokens(ids)
            positions = torch.arange(ids.shape[1])[None]
            rotary = model.model.rotary_emb(hidden, positions)
            for index, layer in enumerate(model.model.layers):
                after = layer(hidden, position_embeddings=rotary, position_ids=positions, attention_mask=None)
                cosine = (hidden.double() * after.double()).sum(-1) / (
                    hidden.double().norm(dim=-1) * after.double().norm(dim=-1)
                )
                sums[index] += cosine.sum().item()
                hidden = after
            tokens += ids.numel()
    expected = [1 - s / tokens for s in sums]
    assert block_influence(model, BATCHES) == pytest.approx(expected, abs=1e-5)
    # With the final norm in it, as in transformers' hidden_states, the last block's would be another.
    with torch.no_grad():
        states = model(BATCHES[0], output_hidden_states=True).hidden_states
        normed = 1 - torch.nn.functional.cosine_similarity(states[-2], states[-1], dim=-1).mean().item()
    assert abs(block_influence(model, BATCHES[:1])[-1] - normed) > 1e-3


def test_influence_needs_tokens_and_leaves_no_hook(model):
    with pytest.raises(ValueError, match="at least one batch"):
        block_influence(model, [])
    before = [list(layer._forward_hooks) for layer in model.model.layers]
    with pytest.raises(IndexError):
        block_influence(model, [torch.full((1, 2), 10**6)])
    assert [list(layer._forward_hooks) for layer in model.model.layers] == before


def test_a_block_that_does_nothing_has_no_influence(tiny_llama):
    model = load_model(tiny_llama)
    layer = model.model.layers[2]
    layer.self_attn.o_proj.weight.data.zero_()
    layer.mlp.down_proj.weight.data.zero_()
    influence = block_influence(model, BATCHES)
    assert influence[2] == pytest.approx(0, abs=1e-6)
    assert choose_layers(influence, 3) == [0, 1, 3]
    cut = cut_layers(model, [0, 1, 3])
    assert torch.allclose(cut(BATCHES[0]).logits, model(BATCHES[0]).logits, atol=1e-5)


def test_the_least_influential_go_but_never_the_ends():
    influence = [0.0, 0.3, 0.1, 0.2, 0.1, 0.0]
    assert choose_layers(influence, 6) == [0, 1, 2, 3, 4, 5]
    assert choose_layers(influence, 5) == [0, 1, 3, 4, 5]  # the first of equals
    assert choose_layers(influence, 3) == [0, 1, 5]
    assert choose_layers(influence, 2) == [0, 5]
    assert choose_layers([0.5], 1) == [0]
    for keep in (1, 7):
        with pytest.raises(ValueError, match=f"6 layers can be cut to 2 to 6 layers, not {keep}"):
            choose_layers(influence, keep)


def test_a_cut_model_generates_with_its_cache(model):
    cut = cut_layers(model, [0, 2, 3])
    assert (cut.config.num_hidden_layers, [layer.self_attn.layer_idx for layer in cut.model.layers]) == (3, [0, 1, 2])
    ids = BATCHES[1]
    settings = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids), "eos_token_id": None}
    cached, recomputed = (cut.generate(ids, use_cache=use, **settings) for use in (True, False))
    assert torch.equal(cached, recomputed)
    assert cached.shape[1] == ids.shape[1] + 8


def test_a_cut_model_shares_the_weights_that_it_keeps(model):
    cut = cut_layers(model, [0, 3])
    assert cut.lm_head.weight is cut.model.embed_tokens.weight
    kept = {name: value.data_ptr() for name, value in cut.state_dict().items()}
    whole = model.state_dict()
    assert kept["model.layers.1.mlp.up_proj.weight"] == whole["model.layers.3.mlp.up_proj.weight"].data_ptr()
    assert kept["model.embed_tokens.weight"] == whole["model.embed_tokens.weight"].data_ptr()
    assert model.config.num_hidden_layers == 4


@pytest.mark.parametrize("keep", [[], [1, 0], [0, 0], [0, 4], [-1, 2]])
def test_layers_to_keep_must_be_there(keep, model):
    with pytest.raises(ValueError, match="rising indices from 0 to 3"):
        cut_layers(model, keep)


def test_angular_distance_is_the_papers_formula_over_all_tokens(model):
    with torch.no_grad():
        sums, tokens = [0.0] * 3, 0
        for ids in BATCHES:
            # The blocks' own inputs: the last of transformers' states has passed the final norm, and isn't compared.
            states = [state.double() for state in model(ids, output_hidden_states=True).hidden_states]
            for index in range(3):
                for one, other in zip(states[index].flatten(0, 1), states[index + 1].flatten(0, 1), strict=True):
                    cosine = (one @ other / one.norm() / other.norm()).item()
                    sums[index] += math.acos(cosine) / math.pi
            tokens += ids.numel()
    before = [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in model.model.layers]
    found = angular_distances(model, BATCHES, 1)
    assert found[:3] == pytest.approx([total / tokens for total in sums], abs=1e-5)
    assert len(found) == 4
    assert len(angular_distances(model, BATCHES, 3)) == 2
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"a model of 4 blocks has no {count} neighbouring ones"):
            angular_distances(model, BATCHES, count)
    with pytest.raises(ValueError, match="at least one batch"):
        angular_distances(model, [], 1)
    assert [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in model.model.layers] == before


def test_neighbours_that_undo_each_other_go_together(tiny_llama):
    """Block 2 takes back what block 1 adds: each has influence, the two together have none."""
    model = load_model(tiny_llama)
    for layer in model.model.layers[1:3]:
        layer.mlp.down_proj.weight.data.zero_()
        layer.self_attn.o_proj.weight.data.zero_()
    bias = torch.nn.Parameter(torch.linspace(-3, 3, 64))
    for layer, sign in zip(model.model.layers[1:3], (1, -1), strict=True):
        layer.mlp.down_proj.bias = torch.nn.Parameter(sign * bias.data)
    assert min(block_influence(model, BATCHES)[1:3]) > 0.1
    distances = angular_distances(model, BATCHES, 2)
    assert distances[1] == pytest.approx(0, abs=1e-3)
    assert choose_contiguous(distances, 2, [0] * 4) == [0, 3]


def test_contiguous_layers_keep_the_ends_and_their_kinds():
    assert choose_contiguous([0.0, 0.3, 0.2, 0.1, 0.0], 4, ["a"] * 6) == [0, 1, 2, 5]
    assert choose_contiguous([0.0, 0.1, 0.2, 0.3, 0.0], 4, ["a"] * 6) == [0, 3, 4, 5]
    assert choose_contiguous([0.5], 6, ["a"] * 6) == [0, 1, 2, 3, 4, 5]
    kinds = [(index + 1) % 4 == 0 for index in range(12)]
    kept = choose_contiguous([0.0, 0.5, 0.1, 0.4, 0.3, 0.2, 0.6, 0.7, 0.0], 8, kinds)
    assert kept == [0, 1, 6, 7, 8, 9, 10, 11]
    # With six of twelve gone the last would stand in another's place.
    with pytest.raises(ValueError, match="no 6 neighbouring layers of 12 can go"):
        choose_contiguous([0.1] * 7, 6, kinds)


def test_a_student_of_contiguous_layers_says_which(tiny_llama, tmp_path):
    student = DepthStudent(layers=2, choose="contiguous")
    build_student(student, Origin(tiny_llama, "S", texts=[BATCHES[0][0]]), tmp_path, QuietProgress())
    layers = json.loads((tmp_path / "layers.json").read_text())
    assert layers["kept"] == [0, 3]
    assert layers["angular_distance"] == pytest.approx(angular_distances(load_model(tiny_llama), [BATCHES[0][:1]], 2))
