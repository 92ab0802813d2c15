"""The shipped recipes, and the strict reader of recipes and of the command line."""

from rlcredit.config.fields import list_keys
from rlcredit.config.reader import given_values, parse, peek
from rlcredit.config.shipped import Recipe, find_recipe, list_recipes, model_path, recipes_root

__all__ = [
    "Recipe",
    "find_recipe",
    "given_values",
    "list_keys",
    "list_recipes",
    "model_path",
    "parse",
    "peek",
    "recipes_root",
]
