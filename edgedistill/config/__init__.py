"""Recipe and Target: what to build, and what for. YAML in, checked models out."""

from edgedistill.config.library import library_folder, load_recipe, load_target, locate, names
from edgedistill.config.recipe import Recipe, recipe_schema
from edgedistill.config.target import Target, target_schema

__all__ = [
    "Recipe",
    "Target",
    "library_folder",
    "load_recipe",
    "load_target",
    "locate",
    "names",
    "recipe_schema",
    "target_schema",
]
