"""The recipes that come with rlcredit, in a clone and in an installed wheel."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import NamedTuple

from rlcredit.config.messages import plain, shown
from rlcredit.errors import InputError

NOT_RECIPES = {"accelerate", "policy", "sets"}


class Recipe(NamedTuple):
    """A shipped recipe: its name for `--config`, its file, and the first line of its opening comment."""

    name: str
    path: Path
    description: str


def recipes_root() -> Path:
    """Where the shipped recipes are: inside an installed wheel, else beside the package in a clone."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def model_path(name: str) -> str:
    """A folder that exists, else a folder among the shipped recipes, else the id of a model on the hub."""
    shipped = recipes_root() / name
    try:
        return str(shipped) if not Path(name).exists() and shipped.is_dir() else name
    except OSError:  # a name too long for the file system: refused with the model
        return name


def list_recipes() -> list[Recipe]:
    """The shipped recipes that can be trained, by name; launch configs and policies are left out."""
    root = recipes_root()
    paths = {path.relative_to(root).with_suffix("").as_posix(): path for path in root.rglob("*.yaml")}
    return [
        Recipe(name, path, _first_comment(path))
        for name, path in sorted(paths.items())
        if NOT_RECIPES.isdisjoint(Path(name).parts[:-1])
    ]


def find_recipe(name: str) -> Path:
    """The file `name`, else the shipped recipe of that name, with or without .yaml: `countdown_tiny/uniform`."""
    try:
        for candidate in (Path(name).expanduser(), recipes_root() / name, recipes_root() / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
        kind = _kind(Path(name))
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # a user without a home, a name too long for the file system, a null byte
        raise InputError(f"{shown(name)}: no such recipe ({type(error).__name__})") from None
    names = [recipe.name for recipe in list_recipes()]
    near = difflib.get_close_matches(name.removesuffix(".yaml"), names, n=1, cutoff=0.4)
    advice = f"did you mean {near[0]}?" if near else "write the path of a .yaml file or the name of a shipped recipe"
    raise InputError(f"{plain(name)}: {kind}; {advice}")


def _kind(path: Path) -> str:
    if path.is_dir():
        return "is a directory, not a recipe"
    # reading a pipe would wait, and a device has no end
    return "is not a regular file" if path.exists() else "no such recipe"


def _first_comment(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("#") and (text := line.strip("# \n")):
                return text
    return ""
