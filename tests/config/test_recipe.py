"""Recipe and target files: the ones that travel along load, wrong ones get one sentence with the key, the value and the
way out.
"""

import json
from pathlib import Path

import pytest
import yaml

from edgedistill.config import Recipe, Target, load_recipe, load_target, names, recipe_schema, target_schema
from edgedistill.config.library import library_folder
from edgedistill.errors import InputError
from edgedistill.formats import FORMATS
from edgedistill.mixes import CANDIDATES, QUANTIZED_MIXES, Layers, Mix, Rule, Size

ROOT = Path(__file__).parent.parent.parent
HEAD = "schema: edgedistill.recipe/1\nname: mine\n"


@pytest.fixture
def recipe_of(tmp_path: Path):
    """A function from the rest of a recipe's YAML to the loaded recipe."""

    def load(text: str, head: str = HEAD) -> Recipe:
        path = tmp_path / "mine.yaml"
        path.write_text(head + text, encoding="utf-8")
        return load_recipe(path)

    return load


def message(recipe_of, text: str, head: str = HEAD) -> str:
    with pytest.raises(InputError) as caught:
        recipe_of(text, head)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("kind", ["recipes", "targets"])
def test_every_file_that_travels_along_loads_under_its_own_name(kind: str):
    found = sorted((ROOT / kind).glob("*.y*ml"))
    assert found, f"{kind}/ is empty"
    assert [path.stem for path in found] == names(kind)
    for path in found:
        loaded = (load_recipe if kind == "recipes" else load_target)(path.stem)
        assert loaded.name == path.stem
        header = path.read_text(encoding="utf-8").splitlines()[0]
        assert header.startswith("# "), f"{path} opens without saying what it is"


def test_the_three_targets_and_the_default_recipe_are_there():
    assert {"laptop-cpu", "consumer-gpu", "phone"} <= set(names("targets"))
    assert {"chat", "demo", "tiny"} <= set(names("recipes"))


def test_defaults_are_the_chat_recipe_but_for_its_student_and_it_spells_all_of_them_out():
    chat = load_recipe("chat")
    defaults = Recipe(schema="edgedistill.recipe/1", name="chat", summary=chat.summary, student="auto")
    assert chat.to_dict() == defaults.to_dict()
    written = yaml.safe_load((ROOT / "recipes" / "chat.yaml").read_text(encoding="utf-8"))

    def keys(found: object, at: str = "") -> set[str]:
        if isinstance(found, list) and at == ".phases":
            return {key for phase in found for key in keys(phase, at)}
        if not isinstance(found, dict) or at == ".recover.tokens_by_mix":
            return {at}
        return {key for name, value in found.items() for key in keys(value, f"{at}.{name}")}

    assert keys(written) == keys(chat.to_dict())


def test_an_editor_is_shown_the_mixes_that_exist():
    assert recipe_schema()["properties"]["mixes"]["items"]["examples"] == list(QUANTIZED_MIXES)
    assert set(recipe_schema()["$defs"]["OwnRule"]["properties"]["grid"]["enum"]) == set(FORMATS) - {"f32"}


def test_schemas_are_json_and_name_every_key():
    assert set(recipe_schema()["properties"]) - {"teacher", "distill"} == set(load_recipe("chat").to_dict())
    assert set(target_schema()["properties"]) == set(load_target("phone").to_dict())
    assert json.dumps(recipe_schema())
    # What a text with a unit looks like in the file, not the number that it becomes.
    assert target_schema()["$defs"]["Memory"]["properties"]["total"]["type"] == "string"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "distil: {tokens: 5}",
            "mine.yaml: distil is not a key; allowed are schema, name, summary, teachers, student, task, vocabulary, "
            "teach, phases, recover, rival, mixes, define_mixes, export, measure, device, teacher, distill. Did you "
            "mean 'distill'?",
        ),
        ("distill: {learning_rat: 1.0e-4}", "distill.learning_rat is not a key; allowed are "),
        (
            "teach: {hints: [Be brief.]}",
            'none of hints is empty, so no question would be trained on as it is asked later; add "" to the list',
        ),
        ("distill: {learning_rat: 1.0e-4}", "Did you mean 'learning_rate'?"),
        (
            "distill: {learning_rate: 2e-5}",
            "distill.learning_rate is the text '2e-5'; YAML reads a number only with a point: 2.0e-5.",
        ),
        (
            "distill: {learning_rate: 2.5e5}",
            "is the text '2.5e5'; YAML reads a number only with a sign after the e: 2.5e+5.",
        ),
        ("distill: {learning_rate: 1e3}", "YAML reads a number only with a point and with a sign after the e: 1.0e+3."),
        ("distill: {learning_rate: '0.5'}", "is the text '0.5'; a number is written without quotes: 0.5."),
        ("distill: {learning_rate: fast}", "distill.learning_rate is 'fast'; it must be a number."),
        ("distill: {learning_rate: .nan}", "distill.learning_rate is nan; "),
        ("distill: {learning_rate: -1.0}", "distill.learning_rate is -1.0; it must be above 0."),
        (
            "distill: {tokens: '400'}",
            "distill.tokens is the text '400'; a whole number is written with digits and without quotes: 400.",
        ),
        (
            "distill: {tokens: 1e3}",
            "is the text '1e3'; a whole number is written with digits and without quotes: 1000.",
        ),
        ("distill: {tokens: 4.5}", "distill.tokens is 4.5; it must be a whole number."),
        ("distill: {tokens: yes}", "distill.tokens is true; it must be a whole number."),
        ("distill: {warmup: 1.5}", "distill.warmup is 1.5; it must be below 1."),
        ("distill: 5", "distill is 5; it must be a group of keys: "),
        ("distill:", "distill is null; it must be a group of keys: "),
        (
            "distill: {batch_tokens: 700}",
            "distill: batch_tokens (700) must be a multiple of seq_len (512).",
        ),
        ("distill: {loss: {forward_kl: 0, cross_entropy: 0}}", "one of forward_kl and cross_entropy must be above 0"),
        ("mixes: [q4_0, q4_km]", "mixes has 'q4_km'; it must be one of q4_0, q8_0, q4_k_m, "),
        ("mixes: [q4_0, q4_km]", "that one's bytes, or defined under define_mixes. Did you mean 'q4_k_m'?"),
        ("mixes: [f16]", "mixes has 'f16'; it must be one of q4_0, "),
        ("mixes: [../up]", "mixes.0 is '../up'; it must match ^[a-z0-9][a-z0-9_]{0,31}$."),
        ("mixes: []", "mixes is empty; it must have at least one entry."),
        ("mixes: q4_0", "mixes is 'q4_0'; it must be a list, [a, b]."),
        ("recover: {train: []}", "recover.train is a list; it must have an entry or more, each only once."),
        ("recover: {train: [norms, norms]}", "recover.train is a list; it must have an entry or more, each only once."),
        ("export: [gguf, gguf]", "export is a list; each entry may be there only once."),
        ("recover: {tokens_by_mix: {q3_0: 5}}", "recover.tokens_by_mix has 'q3_0'; it must be one of q4_0, "),
        ("recover: {rate_by_mix: {mine: 0.5}}", "recover.rate_by_mix has 'mine'; it must be one of q4_0, "),
        (
            "recover: {fit: ggm}",
            "recover.fit is 'ggm'; it must be one of curvature, fisher, importance, ggml. Did you mean 'ggml'?",
        ),
        ("measure: {accuracy_level: 7}", "measure.accuracy_level is 7; it must be one of 0, 1, 2, 3, 4."),
        ("measure: {prompts: [3]}", "measure.prompts.0 is 3; it must be a text."),
        ("teach: {prompts: ''}", "teach.prompts is empty; it must be a text."),
        ("teach: {text: []}", "teach.text is a list; a list must have at least one file."),
        ("teach: {text: [a, a]}", "teach.text is a list; each entry may be there only once."),
        ("teach: {text: 5}", "teach.text is 5; it must be a list, [a, b]."),
        ("teach: {tokens: 0, text_tokens: 0}", "one of tokens, free_tokens and text_tokens must be above 0."),
        (
            "teach: {style: text, free_tokens: 5}",
            "with style text the teacher writes freely already; set free_tokens to 0",
        ),
        (
            "student: {as_is: true, layers: 4}",
            "as_is keeps all of the teacher's layers; leave out layers (4), or set as_is to false.",
        ),
        ("student: {kind: deep}", "student: kind is 'deep'; it must be one of same, depth, width, "),
        ("student: {kind: width}", "the kind width cuts nothing without one of ffn, heads, kv_heads, width and share."),
        (
            "student: {kind: depth+width, layers: 3}",
            "takes share, or layers and one of ffn, heads, kv_heads and width;",
        ),
        (
            "student: {kind: depth+width, ffn: 32}",
            "with layers alone it is the kind depth, without them the kind width.",
        ),
        ("student: {choose: best}", "student.choose is 'best'; it must be one of influence, contiguous."),
        ("student: {kind: width, share: 1.5}", "student.share is 1.5; it must be below 1."),
        (
            "student: {kind: width, fn: 32}",
            "student.fn is not a key; allowed are kind, ffn, heads, kv_heads, width, share, importance.",
        ),
        ("student: {kind: dept}", "Did you mean 'depth'?"),
        (
            "student: {kind: depth, layrs: 3}",
            "student.layrs is not a key; allowed are kind, layers, depth, choose, of. Did",
        ),
        ("student: {kind: same, layers: 3}", "student.layers is not a key; allowed are kind."),
        ("student: {depth: 1.5}", "student.depth is 1.5; it must be at most 1."),
        ("student: {as_is: true, kind: depth}", "as_is is true and kind is 'depth'; leave out one of them."),
        ("student: 5", "student is 5; it must be a group of keys: kind, layers, depth, "),
        ("phases: []", "phases is empty; it must have at least one entry."),
        ("phases: [{tokens: 0}]", "phases.0.tokens is 0; it must be above 0."),
        ("phases: [{train: all}]", "phases.0.train is 'all'; it must be one of student, teacher."),
        ("phases: [{tokns: 1}]", "phases.0.tokns is not a key; allowed are tokens, seq_len, "),
        (
            "phases: [{train: student}, {train: teacher}]",
            "phases.1.train is teacher, and a phase of the student comes before it; the teacher's phases come first.",
        ),
        (
            "phases: [{train: teacher}]",
            "phases has none that trains the student; add {train: student}, or let student.kind be same.",
        ),
        (
            "phases: [{train: teacher, loss: [{kl: forward}]}, {train: student}]",
            "phases.0: train is teacher, and a term of loss compares with the teacher; leave loss out",
        ),
        (
            "phases: [{order: easy_first, loss: [{text: true}]}]",
            "phases.0: order is easy_first, and no term of loss reads the teacher's probabilities",
        ),
        (
            "vocabulary: 8192\nstudent: {kind: sibling, model: org/small}",
            "vocabulary is cut of students that start from the teacher, and student names another model; leave out",
        ),
        ("vocabulary: 8192\nstudent: auto", "vocabulary goes with a student of given sizes, and student.kind is auto"),
        ("vocabulary: 100", "vocabulary is 100; it must be a multiple of 32."),
        ("vocabulary: 224", "vocabulary is 224; it must be at least 256."),
        ("phases: []\ndistill: {}", "distill is a short form of phases, and both are there; leave out one of them."),
        ("distill: {loss: []}", "distill.loss is empty; it must have at least one entry."),
        ("distill: {loss: {kl: 1}}", "distill.loss: 'kl' is not a key of its short form, which has"),
        ("distill: {loss: {forward_kl: x}}", "forward_kl is 'x'; it must be a number of at least 0."),
        (
            "distill: {loss: [{kl: forwards}]}",
            "distill.loss.0.kl is 'forwards'; it must be one of forward, reverse, jsd, skew, skew_reverse, tvd. Did",
        ),
        ("phases: [{loss: [{kl: tvd, wieght: 1.0}]}]", "phases.0.loss.0.wieght is not a key; allowed are kl, weight, "),
        ("recover: {loss: []}", "recover.loss is empty; it must have at least one entry."),
        (
            "recover: {loss: backward}",
            "recover.loss.0.kl is 'backward'; it must be one of forward, reverse, jsd, skew, skew_reverse, tvd.",
        ),
        (
            "recover: {loss: [{kl: tvd, towards: techer}]}",
            "recover.loss.0.towards is 'techer'; it must be one of student, teacher. Did you mean 'teacher'?",
        ),
        ("recover: {loss: tvd, teacher_share: 0.5}", "recover.teacher_share is not a key"),
        ("distill: {loss: [{text: false}]}", "distill.loss.0.text is false; it must be true."),
        ("distill: {loss: [{kl: tvd, share: 0.5}]}", "share is for jsd, skew, skew_reverse; leave it out with kl tvd."),
        (
            "distill: {loss: [{kl: tvd, temperature: 2.0, outcomes: grouped}]}",
            "temperature is 2 and outcomes grouped, and how a temperature would spread the tokens that are grouped",
        ),
        ("teachers: {}", "teachers has 0 entries (none); it must have exactly one."),
        ("teachers: {a: {}, b: {}}", "teachers has 2 entries (a, b); it must have exactly one."),
        (
            "teachers: {a: {topk: 5}}",
            "teachers.a.topk is not a key; allowed are model, revision, top_k, does, blocks. Did",
        ),
        (
            "teacher: {topk: 5}",
            "teacher.topk is not a key; allowed are model, revision, top_k, does, blocks. Did you mean",
        ),
        (
            "teachers: {a: {does: [score]}}",
            "teach asks for 40000 tokens of writing, and no teacher writes; add write to teachers.a.does, or set",
        ),
        (
            "teachers: {a: {does: [write]}}",
            "a loss compares with a teacher's probabilities, and no teacher scores; add score to teachers.a.does",
        ),
        (
            "teachers: {a: {does: [write]}}\nphases: [{loss: [{text: true}, {states: mse}]}]",
            "a loss compares with a teacher's hidden states or attention, and no teacher scores; add score to",
        ),
        ("teacher: {blocks: disk}", "teacher.blocks is 'disk'; it must be one of auto, stored, live."),
        ("distill: {loss: distilbart}", "a loss by name is distilbert; or write a list of terms. Did you mean 'distil"),
        ("distill: {loss: [{states: l2}]}", "distill.loss.0.states is 'l2'; it must be one of cosine, mse."),
        ("distill: {loss: [{states: mse, layers: [0]}]}", "distill.loss.0.layers.0 is 0; it must be above 0."),
        (
            "distill: {loss: [{states: mse, layers: [2, 2]}]}",
            "layers names a layer twice; each may be there only once.",
        ),
        (
            "distill: {loss: [{states: mse, layers: [2, 3], teacher_layers: [4]}]}",
            "teacher_layers has 1 entries and layers 2; each layer of the student needs one of the teacher.",
        ),
        (
            "distill: {loss: [{relations: [qk]}]}",
            "distill.loss.0.relations.0 is 'qk'; it must be one of qq, kk, vv.",
        ),
        ("distill: {loss: [{relations: []}]}", "distill.loss.0.relations is empty; it must have at least one entry."),
        (
            "distill: {loss: [{relations: [qq, qq]}]}",
            "distill.loss.0.relations is a list; each entry may be there only",
        ),
        (
            "distill: {loss: [{states: mse, layer: 3}]}",
            "distill.loss.0.layer is not a key; allowed are kl, weight, temperature, share, outcomes, text, states, ",
        ),
        (
            "distill: {loss: [{text: true}], on_policy: {every: 5}}",
            "on_policy has the student write, and no term of loss compares that with the teacher; add a kl term, or",
        ),
        (
            "recover: {loss: [{text: true}], on_policy: {every: 5}}",
            "on_policy has the packed file write, and no term of loss compares that with a model; add a kl term, or",
        ),
        ("distill: {on_policy: {tokens: 5}}", "distill.on_policy.every is missing; it must be given."),
        ("distill: {on_policy: {every: 5, share: 0}}", "distill.on_policy.share is 0; it must be above 0."),
        ("recover: {loss: [{states: mse}]}", "a term of states is for phases; on the grid there are kl and text."),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence_with_the_way_out(recipe_of, text: str, expected: str):
    found = message(recipe_of, text)
    assert expected in found
    assert found.startswith("mine.yaml: ")
    assert "\n" not in found


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("name: mine\n", "mine.yaml: schema is missing; it must be given."),
        (
            "schema: edgedistill.recipe/2\nname: mine\n",
            "schema is 'edgedistill.recipe/2'; it must be edgedistill.recipe/1.",
        ),
        ("schema: edgedistill.recipe/1\nname: ../up\n", "name is '../up'; it must match ^[a-z0-9]"),
        ("- a\n- b\n", "mine.yaml: it holds a list; it must be keys with values, `key: value`."),
        ("", "it holds nothing; it must be keys with values"),
        ("just words\n", "it holds only 'just words'"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(recipe_of, head: str, expected: str):
    assert expected in message(recipe_of, "", head)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mixes: [q4_0]\nmixes: [q8_0]\n", "mine.yaml:4: the key 'mixes' is given twice; leave one out."),
        ("teach:\n  seed: 1\n  seed: 2\n", "mine.yaml:5: the key 'seed' is given twice; leave one out."),
        ("teach: &a {seed: 1}\ndistill: *a\n", "mine.yaml:4: aliases (*name) are not allowed; write the value out."),
        ("5: x\n", "mine.yaml:3: the key '5' is not a text; put it in quotes, or take another key."),
        ("teach: {seed: 1\n", "mine.yaml:4: expected ',' or '}', but got '<stream end>'"),
        ("x: !!python/object/apply:os.system [true]\n", "mine.yaml:3: could not determine a constructor for the tag"),
        ("x: 2024-13-45\n", "mine.yaml: it cannot be read as YAML (month must be in 1..12)"),
        ('x: !!int ""\n', "mine.yaml: it cannot be read as YAML (a value isn't what its tag says)"),
        ('x: !!bool "y"\n', "mine.yaml: it cannot be read as YAML (a value isn't what its tag says)"),
        ('x: !!timestamp "x"\n', "mine.yaml: it cannot be read as YAML"),
        ("? !!str [a]\n: b\n", "mine.yaml: it cannot be read as YAML"),
        ("x: " + ":".join(["1"] * 5000) + ".5\n", "mine.yaml: it cannot be read as YAML"),
        ("x: 0x" + "f" * 500 + "\n", "mine.yaml:3: a number has too many digits; write one below 2^63."),
        ("x: " + "[" * 5000, "mine.yaml: it cannot be read as YAML"),
        ("x: " + "9" * 5000, "mine.yaml: it cannot be read as YAML"),
        ("x: \x07\n", "mine.yaml: it cannot be read as YAML"),
        ("# " + "x" * 2**20, "a recipe or target has at most 1048576"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_its_line(recipe_of, text: str, expected: str):
    assert expected in message(recipe_of, text)


def test_a_hint_is_given_only_where_it_helps(recipe_of):
    assert message(recipe_of, "teach: {seed: 1\n").endswith("Write it as YAML, `key: value`.")
    assert "Write it as YAML" not in message(recipe_of, "mixes: [q4_0]\nmixes: [q8_0]\n")
    only = message(recipe_of, "", "schema: edgedistill.recipe/2\nname: mine\n")
    assert only.endswith("it must be edgedistill.recipe/1."), "one value is allowed, so no other can be meant"


def test_a_wrong_value_is_cut_and_holds_nothing_that_a_terminal_obeys(recipe_of):
    found = message(recipe_of, 'export: ["\\e[31m' + "x" * 500 + '"]')
    assert "\x1b" not in found
    assert len(found) < 200


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    (tmp_path / "mine.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(InputError, match="not a text file in UTF-8"):
        load_recipe(tmp_path / "mine.yaml")


def test_an_unknown_name_gets_the_known_ones_and_the_nearest():
    with pytest.raises(InputError, match=r"recipe 'chatt' is unknown; it must be one of .*Did you mean 'chat'\?"):
        load_recipe("chatt")
    with pytest.raises(
        InputError,
        match=r"target 'laptop' is unknown; it must be one of consumer-gpu, laptop-cpu, phone, this-machine, or the",
    ):
        load_target("laptop")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.yaml: there is no such file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(InputError, match="it cannot be read"):
        load_recipe(tmp_path / "folder.yaml")


def test_paths_in_a_recipe_count_from_its_folder(recipe_of, tmp_path: Path):
    recipe = recipe_of("teach: {prompts: data/p.jsonl, text: own.txt}\n")
    assert recipe.teach.prompts == str(tmp_path / "data" / "p.jsonl")
    assert recipe.teach.text == (str(tmp_path / "own.txt"),)
    assert recipe_of("teach: {text: [a.txt, b.txt]}\n").teach.text == (str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    assert recipe_of("").teach.prompts == "teacher"


def test_the_command_line_comes_before_the_recipe_for_the_teacher(recipe_of):
    recipe = recipe_of("teacher: {model: org/a, revision: abc}\n")
    assert recipe.with_teacher("org/b").teacher.model == "org/b"
    assert recipe.with_teacher("org/b").teacher.revision == "abc"
    assert recipe.with_teacher(None) == recipe


def test_short_forms_are_the_long_ones(recipe_of):
    short = recipe_of(
        "teacher: {model: org/a, top_k: 8}\nstudent: {layers: 5}\n"
        "distill: {tokens: 7, loss: {forward_kl: 0.5, cross_entropy: 0}}\n"
    )
    whole = recipe_of(
        "teachers: {teacher: {model: org/a, top_k: 8}}\nstudent: {kind: depth, layers: 5}\n"
        "phases: [{tokens: 7, loss: [{kl: forward, weight: 0.5}]}]\n"
    )
    assert short == whole
    assert Recipe.model_validate(whole.to_dict()) == whole
    assert recipe_of("student: {as_is: true}\n").student == recipe_of("student: {kind: same}\n").student
    assert recipe_of("student: {as_is: false}\n").student == recipe_of("").student
    assert recipe_of("distill: {loss: {forward_kl: 0.5}}\n").phases[0].loss[1].weight == 0.1


def test_a_named_teacher_keeps_its_name_on_the_command_line(recipe_of):
    recipe = recipe_of("teachers: {big: {top_k: 8, does: [write, score]}}\n").with_teacher("org/b")
    assert (list(recipe.teachers), recipe.teacher.model, recipe.teacher.top_k) == (["big"], "org/b", 8)


def test_the_preset_is_the_three_terms_of_the_paper(recipe_of):
    """The released command's --alpha_ce 5.0 --alpha_mlm 2.0 --alpha_cos 1.0, at --temperature 2.0."""
    terms = recipe_of("distill: {loss: distilbert}\n").distill.loss
    assert [(type(term).__name__, term.weight) for term in terms] == [
        ("DivergenceTerm", 5.0),
        ("TextTerm", 2.0),
        ("StatesTerm", 1.0),
    ]
    kl, _, states = terms
    assert (kl.kl, kl.temperature, states.states, states.layers) == ("forward", 2.0, "cosine", None)
    written = "[{kl: forward, weight: 5.0, temperature: 2.0}, {text: true, weight: 2.0}, {states: cosine}]"
    assert recipe_of(f"distill: {{loss: {written}}}\n").distill.loss == terms


def test_a_loss_on_the_grid_says_whose_distribution_each_term_goes_towards(recipe_of):
    plain, terms = recipe_of(""), recipe_of("recover: {loss: [{kl: jsd, share: 0.3, towards: teacher}, {text: true}]}")
    assert [(term.name, term.towards) for term in plain.recover.loss] == [("forward_kl", "student")]
    assert (plain.recover.compares, terms.recover.compares) == (False, True)
    assert terms.recover.loss[0].settings == {"temperature": 1.0, "beta": 0.3}
    for name in ("reverse", "reverse_kl"):  # the second as recipes had it before
        assert [term.name for term in recipe_of(f"recover: {{loss: {name}}}").recover.loss] == ["reverse_kl"]


def test_log_probabilities_are_kept_where_a_loss_compares_with_them(recipe_of):
    text = "distill: {loss: [{text: true}]}\n"
    assert recipe_of("").top_k == 64
    assert recipe_of(text).top_k == 0
    assert recipe_of(text + "teacher: {does: [write]}\n").top_k == 0
    assert recipe_of("phases: [{loss: [{text: true}]}, {loss: [{kl: tvd}]}]\n").top_k == 64
    assert recipe_of("student: {kind: same}\n").top_k == 0


def test_a_temperature_of_a_few_tokens_is_over_these_alone(recipe_of):
    terms = "[{kl: jsd, temperature: 2.0, share: 0.3}, {kl: skew}, {kl: tvd, outcomes: renormalized}]"
    first, second, third = recipe_of(f"distill: {{loss: {terms}}}\n").phases[0].loss
    assert (first.renormalized, second.renormalized, third.renormalized) == (True, False, True)
    assert (first.name, first.settings) == ("jsd", {"temperature": 2.0, "beta": 0.3})
    assert (second.name, second.settings) == ("skew_kl", {"temperature": 1.0})


def test_layers_and_tokens_of_a_mix(recipe_of):
    recipe = recipe_of("student: {depth: 0.9}\nrecover: {tokens: 100, tokens_by_mix: {q8_0: 7}}\n")
    assert [recipe.student.layers_of(n) for n in (30, 4, 2)] == [27, 4, 2]
    assert recipe_of("student: {layers: 5}\n").student.layers_of(30) == 5
    assert (recipe.recover.tokens_of("q4_0"), recipe.recover.tokens_of("q8_0")) == (100, 7)


def test_mixes_of_its_own_come_with_their_rules(recipe_of):
    recipe = recipe_of(
        "mixes: [q4_0, small, fitted, sized]\n"
        "define_mixes:\n"
        "  small:\n"
        "    base: q4_k_m\n"
        "    rules: [{tensors: '*.down_proj.weight', layers: '0-3, 28-', grid: q6_k}, {tensors: "
        "lm_head.weight, grid: q8_0}]\n"
        "  fitted: {auto: 4.5, grids: [q4_0, q8_0], tokens: 256}\n"
        "  sized: {auto: 80 MB}\n"
        "recover: {tokens_by_mix: {small: 7}}\n"
    )
    assert recipe.mix("q4_0") == Mix("q4_0", "q4_0")
    rules = (Rule("*.down_proj.weight", "q6_k", Layers("0-3, 28-")), Rule("lm_head.weight", "q8_0"))
    assert recipe.mix("small") == Mix("small", "q4_k_m", rules)
    assert recipe.mix("fitted") == Mix(
        "fitted", "", size=Size(bits_per_weight=4.5), candidates=("q4_0", "q8_0"), tokens=256
    )
    assert recipe.mix("sized") == Mix("sized", "", size=Size(total_bytes=80_000_000), candidates=CANDIDATES)
    assert recipe.recover.tokens_of("small") == 7
    assert Recipe.model_validate(recipe.to_dict()) == recipe


def test_a_mix_of_a_built_in_ones_size_needs_no_definition(recipe_of):
    recipe = recipe_of(
        "mixes: [auto_q4_k_m, like]\ndefine_mixes: {like: {auto: q4_0}}\nrecover: {tokens_by_mix: {auto_q4_k_m: 7}}\n"
    )
    assert recipe.mix("auto_q4_k_m") == Mix("auto_q4_k_m", "", size=Size(like="q4_k_m"))
    assert recipe.mix("like") == Mix("like", "", size=Size(like="q4_0"))
    assert recipe.recover.tokens_of("auto_q4_k_m") == 7
    assert Recipe.model_validate(recipe.to_dict()) == recipe


def test_a_definition_goes_before_what_a_name_would_mean(recipe_of):
    recipe = recipe_of("mixes: [auto_q4_0]\ndefine_mixes: {auto_q4_0: {base: q8_0}}\n")
    assert recipe.mix("auto_q4_0") == Mix("auto_q4_0", "q8_0")


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        ("{base: q4km}", "define_mixes.a.base is 'q4km'; it must be one of q4_0, "),
        ("{base: q4km}", "Did you mean 'q4_k_m'?"),
        ("{}", "define_mixes.a: it must have either base, with rules, or auto."),
        (
            "{auto: 4.5, base: q4_0}",
            "define_mixes.a: it must have either base, with rules, or auto.",
        ),
        ("{auto: 4.5, rules: [{tensors: x, grid: q4_0}]}", "rules go with base; auto chooses every grid itself."),
        ("{base: q4_0, grids: [q4_0, q8_0]}", "grids and tokens go with auto."),
        (
            "{base: q4_0, rules: [{tensors: x, grid: q6k}]}",
            "define_mixes.a.rules.0.grid is 'q6k'; it must be one of q4_0, ",
        ),
        ("{base: q4_0, rules: [{tensors: x, grid: q6k}]}", "Did you mean 'q6_k'?"),
        (
            "{base: q4_0, rules: [{tensors: x, grid: f32}]}",
            "define_mixes.a.rules.0.grid is 'f32'; it must be one of q4_0, ",
        ),
        (
            "{base: q4_0, rules: [{tensors: x, grd: q6_k}]}",
            "0.grd is not a key; allowed are tensors, grid, layers. Did you mean 'grid'?",
        ),
        (
            "{base: q4_0, rules: [{tensors: x, grid: q6_k, layers: 5-2}]}",
            "layers is '5-2'; the range 5-2 ends before it begins; write 2-5",
        ),
        (
            "{base: q4_0, rules: [{tensors: x, grid: q6_k, layers: 5}]}",
            "define_mixes.a.rules.0.layers is 5; it must be a text.",
        ),
        (
            "{base: q4_0, rules: [{tensors: x, grid: q6_k, layers: last}]}",
            "is 'last'; it must be layers counted from 0, such as '5'",
        ),
        (
            "{base: q4_0, rule: []}",
            "define_mixes.a.rule is not a key; allowed are base, rules, auto, grids, tokens. Did you mean 'rules'?",
        ),
        ("{base: q4_0, rules: 5}", "define_mixes.a.rules is 5; it must be a list, [a, b]."),
        ("{auto: 80}", "define_mixes.a.auto is 80; it must be above 0 and at most 16 bits a weight."),
        (
            "{auto: 80 M}",
            "auto is '80 M'; it must be bits a weight, such as 4.5, a size with its unit, such as '80 MB', or a ",
        ),
        ("{auto: true}", "define_mixes.a.auto is true; it must be bits a weight"),
        (
            "{auto: 4, grids: [q4_0]}",
            "define_mixes.a.grids is a list; it must have two entries or more, each only once.",
        ),
        ("{auto: 4, grids: [q4_0, q5]}", "define_mixes.a.grids is a list; 'q5' in it must be one of q4_0, "),
        ("5", "define_mixes.a is 5; it must be a group of keys: base, rules, auto, grids, tokens."),
    ],
)
def test_a_wrong_mix_is_one_sentence(recipe_of, mix: str, expected: str):
    assert expected in message(recipe_of, f"define_mixes: {{a: {mix}}}\n")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("q8_0", "define_mixes.q8_0 has the name of a built-in mix; give it another."),
        ("f16", "define_mixes.f16 has the name of a built-in mix"),
        ("a-b", "define_mixes.a-b is 'a-b'; it must match ^[a-z0-9]"),
        ("../a", "define_mixes.../a is '../a'; it must match ^[a-z0-9]"),
        ("", "define_mixes. is ''; it must match ^[a-z0-9]"),
    ],
)
def test_a_mixs_name_is_a_short_word_of_its_own(recipe_of, name: str, expected: str):
    assert expected in message(recipe_of, f"define_mixes: {{'{name}': {{auto: 4.5}}}}\n")


def test_a_recipe_is_frozen(recipe_of):
    with pytest.raises(ValueError, match="frozen"):
        recipe_of("").teach.seed = 3


def test_installed_recipes_come_before_a_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "edgedistill"
    (tmp_path / "recipes").mkdir()
    package.mkdir()
    monkeypatch.setattr("edgedistill.__file__", str(package / "__init__.py"))
    assert library_folder("recipes") == tmp_path / "recipes"
    (package / "_data" / "recipes").mkdir(parents=True)
    assert library_folder("recipes") == package / "_data" / "recipes"


def test_target_figures_are_numbers_in_base_units():
    laptop = load_target("laptop-cpu")
    assert isinstance(laptop, Target)
    assert laptop.memory.total == 16 * 2**30
    assert laptop.bandwidth.best == 89.6e9
    assert laptop.limits.context == 2048
    assert load_target("consumer-gpu").compute.flops == pytest.approx(50.9e12)
    assert load_target("phone").to_dict()["compute"]["flops"] is None


def test_efficiencies_are_what_their_sources_say():
    # Published tokens/s of Llama-3.2-3B Q4_K_M, 1.87 GiB, over the peak bandwidth.
    for name, rate in (("laptop-cpu", 23.8), ("consumer-gpu", 122.9)):
        target = load_target(name)
        assert target.efficiency.decode == pytest.approx(rate * 1.87 * 2**30 / target.bandwidth.peak, abs=0.006)
    gpu = load_target("consumer-gpu")
    assert gpu.efficiency.prefill == pytest.approx(2 * 1.10e9 * 6744 / gpu.compute.flops, abs=0.005)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "16 GiB",
            "16",
            (
                "memory.total is 16; it must be a number with a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), "
                "such as '8 GiB'."
            ),
        ),
        ("16 GiB", "sixteen GiB", "memory.total is 'sixteen GiB'; it must be a number with a unit"),
        ("16 GiB", "0 GiB", "memory.total is '0 GiB'; it must be above 0"),
        ("16 GiB", "4 GiB", "usable (8589934592 bytes) must be at most total (4294967296 bytes)"),
        ("89.6 GB/s", "89.6 GB", "bandwidth.peak is '89.6 GB'; it must be a number with a unit (B/s,"),
        (
            "2048 tokens",
            "2048",
            "limits.context is 2048; it must be a number with a unit (tokens), such as '2048 tokens'.",
        ),
        ("decode: 0.53", "decode: 1.53", "efficiency.decode is 1.53; it must be at most 1."),
        ("connection: local", "connection: ssh", "connection is 'ssh'; it must be one of local, none."),
        ("runtimes:", "runtime:", "Did you mean 'runtimes'?"),
    ],
)
def test_a_wrong_target_is_one_sentence(tmp_path: Path, old: str, new: str, expected: str):
    text = (ROOT / "targets" / "laptop-cpu.yaml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_target(path)
    assert expected in str(caught.value)
