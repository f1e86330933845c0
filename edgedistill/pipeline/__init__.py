"""The pipeline, told once: stages as values, the lists of compile and compare, their estimate, and the loop that runs
them.

Read steps.py first. Nothing runs while a list is made, and nothing here loads torch before a stage is at work.
"""

from edgedistill.pipeline.build import Outcome, compare_model, compile_model
from edgedistill.pipeline.prepare import Prepared, make_plan, prepare

__all__ = ["Outcome", "Prepared", "compare_model", "compile_model", "make_plan", "prepare"]
