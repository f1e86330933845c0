"""The plan: what compile would build, what it would weigh and how fast it could be on the device, and what building it
takes. No torch.
"""

from edgedistill.plan.make import decide, weigh
from edgedistill.plan.types import BuildMachine, BuildPlan, Plan, StageEstimate, this_machine

__all__ = ["BuildMachine", "BuildPlan", "Plan", "StageEstimate", "decide", "this_machine", "weigh"]
