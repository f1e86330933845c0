"""This machine as a target, for who has no device in mind: no limits but its memory, and no figures to predict speeds
from.
"""

from edgedistill.config.target import SCHEMA, Target
from edgedistill.machine import machine_facts

HERE = "this-machine"


def here() -> Target:
    """The machine that this runs on."""
    facts = machine_facts()
    memory, unmeasured = facts["memory_bytes"], "not measured"
    found = {
        "schema": SCHEMA,
        "name": HERE,
        "title": "this machine",
        "memory": {"total": f"{memory} B", "usable": f"{memory} B", "source": "what the system says that it has"},
        "bandwidth": {"peak": None, "source": unmeasured},
        "efficiency": {"decode": None, "prefill": None, "source": unmeasured},
        "compute": {"flops": None, "source": unmeasured},
        "cpu": {"cores": facts["cores"], "source": "what the system lets this process use"},
        "runtimes": ["llama.cpp", "onnxruntime"],
        "connection": "local",
    }
    return Target.model_validate(found)
