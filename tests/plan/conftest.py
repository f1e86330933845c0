"""Plans of these tests are made for a processor that multiplies in bfloat16, whatever the tests run on."""

import pytest

from edgedistill import machine


@pytest.fixture(autouse=True)
def a_processor_with_bfloat16(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "_cpu_flags", lambda: machine.BFLOAT16_FLAGS)
