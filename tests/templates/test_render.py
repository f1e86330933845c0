"""Chat templates: transformers' text for real ones, one sentence for the broken and the hostile."""

import threading

import pytest

from edgedistill.errors import InputError
from edgedistill.templates import render as template_module
from edgedistill.templates.render import LimitError, render

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hi <b> \n"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]
TEMPLATES = {
    "smollm2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
        "'<|im_start|>system\nYou are a helpful AI "
        "assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
        "message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
        "'<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
        "'<|start_header_id|>' + message['role'] + "
        "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "blocks, breaks and tags": (
        "{%- for message in messages %}\n    {%- if message.role == 'system' %}\n        {%- continue %}\n   "
        " {%- endif %}\n"
        "    {% generation %}{{ message | tojson }}{% endgeneration %}\n{% endfor %}\n{{ eos_token }}\n"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("opening", [True, False])
def test_text_is_transformers(tiny_llama, name, opening):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    expected = tokenizer.apply_chat_template(
        CONVERSATION, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=opening
    )
    found = render(
        TEMPLATES[name],
        CONVERSATION,
        bos=tokenizer.bos_token or "",
        eos=tokenizer.eos_token,
        add_generation_prompt=opening,
    )
    assert found == expected


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{{ raise_exception('roles must alternate') }}",
            "its chat template refuses this conversation: roles must alternate",
        ),
        ("{% for x in messages %}", "its chat template has an error in line 1: "),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "its chat template refuses this conversation: "),
        ("{{ messages.append(1) }}", "its chat template refuses this conversation: "),
        ("{% for i in range(999999999) %}{% endfor %}", "its chat template refuses this conversation: Range too big"),
        ("{{ 1 / 0 }}", "its chat template fails on this conversation: ZeroDivisionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "its chat template fails on this conversation: Recursion"),
        ("{{ 5 | wordwrap(1) }}", "its chat template "),
        ("{% break %}", "its chat template "),
    ],
)
def test_bad_template_is_one_sentence(template, words):
    with pytest.raises(InputError) as caught:
        render(template, CONVERSATION, bos="", eos="")
    assert words in str(caught.value)


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
FILL = "{% set x = 'x' * 99999999 %}{{ x * 99999999 }}"


WRITES = "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}"


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        (LOOP, "takes more than 2 s for this conversation; ask again when the machine has less to do, shorten the"),
        (FILL, "takes more than 1 GiB of memory for this conversation; shorten the conversation, or repair the"),
        (WRITES, "writes more than 64 MiB for this conversation; shorten the conversation, or repair the template"),
    ],
    ids=["loops", "fills memory", "writes much"],
)
def test_a_template_has_little_time_and_memory(hostile, words, monkeypatch):
    monkeypatch.setattr(template_module, "DEADLINE_S", 2.0 if hostile == LOOP else 20.0)
    with pytest.raises(LimitError, match=f"its chat template {words}"):
        render(hostile, CONVERSATION, bos="", eos="")
    assert render("{{ messages[0].content }}", CONVERSATION, bos="", eos="") == "Be brief."  # the next one is rendered


def test_the_process_that_renders_has_no_more_memory_than_it_may():
    with pytest.raises(InputError, match="its chat template "):
        render(
            "{% set ns = namespace(x='x') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            [],
            bos="",
            eos="",
        )


def test_a_process_that_is_killed_is_said_to_be():
    renderer = template_module._RENDERER
    assert render("{{ 5 }}", [], bos="", eos="") == "5"
    threading.Timer(0.3, renderer._process.kill).start()
    with pytest.raises(LimitError, match=r"renders its chat template was killed \(signal 9\), as where a machine has"):
        render(LOOP, [], bos="", eos="")
    assert render("{{ 5 }}", [], bos="", eos="") == "5"


def test_the_process_that_was_begun_renders_and_another_one_follows_it():
    renderer = template_module._Renderer()
    request = {"template": "{{ bos_token }}", "arguments": {"bos_token": "<s>"}}
    renderer.begin()
    begun = renderer._process
    renderer.begin()
    assert renderer.ask(request) == {"text": "<s>"}
    assert renderer._process is begun
    begun.kill()
    begun.wait()
    assert renderer.ask(request) == {"text": "<s>"}
    assert renderer._process is not begun
    renderer.close()
