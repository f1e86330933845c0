"""The plan: what compile would build, what it would weigh and how fast it could be on the device, and what building it
takes. No torch.
"""

from edgedistill.plan.make import make_plan
from edgedistill.plan.types import Plan, this_machine

__all__ = ["Plan", "make_plan", "this_machine"]
