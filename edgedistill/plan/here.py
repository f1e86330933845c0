"""This machine as a target, for who has no device in mind: no limits but its memory, and no figures to predict speeds
from.
"""

import json

import yaml

from edgedistill.config.library import load_target
from edgedistill.config.target import HERE, SCHEMA, Target
from edgedistill.machine import machine_facts
from edgedistill.show import show_machine

FILE = """# This machine as edgedistill sees it. Save it, then put in limits, and figures that you have measured.
schema: {schema}
name: {name}
title: {title}
memory: {{total: {memory} B, usable: {memory} B, source: "what the system says that it has"}}
bandwidth: {{peak: null, source: "not measured"}}
efficiency: {{decode: null, prefill: null, source: "not measured"}}
compute: {{flops: null, source: "not measured"}}
cpu: {{cores: {cores}, source: "what the system lets this process use"}}
runtimes: [llama.cpp, onnxruntime]
connection: local
this_machine: true   # what is measured here counts as measured on the target
limits: {{context: 2048 tokens, file: null, ttft: null, decode: null}}
"""


def target_named(name_or_path: str) -> Target:
    """A target by its name, this-machine among them, or from a YAML file.

    Raises:
        InputError: there is none, or a key or value in it is wrong.
    """
    return here() if name_or_path == HERE else load_target(name_or_path)


def here() -> Target:
    """The machine that this runs on."""
    return Target.model_validate(yaml.safe_load(here_file()))


def here_file() -> str:
    """The same as a YAML file, which can be saved and changed."""
    facts = machine_facts()
    # JSON's quotes are YAML's too, and the report is read elsewhere, so the title names the machine.
    title = json.dumps(show_machine(facts))
    return FILE.format(schema=SCHEMA, name=HERE, title=title, memory=facts["memory_bytes"], cores=facts["cores"])
