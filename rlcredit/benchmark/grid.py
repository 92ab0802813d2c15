"""What a grid is made of: variants (a strategy, or named settings) and seeds; each cell is a run of `rlcredit train`.

A set is a YAML file in `sets/` beside the recipe. Each line is a variant: its settings over the recipe's, and what it
is compared with (`against`, by default `uniform`).

    coupled_rhythm: {credit_strategy: coupled_rhythm}
    coupled_bottom: {credit_strategy: coupled_rhythm, credit_select: bottom, against: [uniform, coupled_rhythm]}

A line may stand for several variants, one for each combination of the values of some keys; its name is made of theirs:

    "{credit_strategy}_a{credit_amplification}":
      cross: {credit_strategy: [random, entropy], credit_amplification: [1.5, 4]}

A variant's name means the same in every set, so that sets share cells.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlcredit.config import find_recipe
from rlcredit.config.yaml_file import load_yaml
from rlcredit.credit import find_strategy
from rlcredit.errors import InputError

BASELINE = "uniform"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
OF_A_CELL = ("seed", "credit_seed", "output_dir", "resume_from_checkpoint", "overwrite", "dry_run", "disable_tqdm")
"""Keys that the grid sets itself."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""The environment of a cell on a CPU: another number of threads sums in another order."""


@dataclass(frozen=True)
class Variant:
    """One way of training.

    Attributes:
        name: as in tables, and in the names of files.
        settings: over the recipe's.
        against: the variants that it is compared with.
    """

    name: str
    settings: Mapping[str, Any]
    against: tuple[str, ...] = (BASELINE,)

    @property
    def words(self) -> list[str]:
        """The settings as words of a command line."""
        return [word for key, value in self.settings.items() for word in (f"--{key}", *_words(value))]


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.name}-seed{self.seed}"

    def words(self, recipe: Sequence[str], folder: Path) -> list[str]:
        """The words of `rlcredit train` that train the cell in a folder; `recipe`: --config and flags over it."""
        own = ["--seed", str(self.seed), "--credit_seed", str(self.seed), "--output_dir", str(folder)]
        return [*recipe, *self.variant.words, *own]

    def command(self, recipe: Sequence[str], environment: Mapping[str, str]) -> str:
        """The command that reproduces the cell, with the environment variables that it needs."""
        words = ["rlcredit", "train", *self.words(recipe, Path("outputs") / self.name)]
        return " ".join([*(f"{key}={value}" for key, value in environment.items()), shlex.join(words)])


@dataclass(frozen=True)
class Grid:
    """The cells to run; the baseline and all variants that others are compared with are among them.

    Attributes:
        title: what names its results: `results`, or `results-SET`.
        variants: in the order of the tables.
        seeds: as given.
    """

    title: str
    variants: Sequence[Variant]
    seeds: Sequence[int]
    cells: Sequence[Cell] = field(init=False)

    def __post_init__(self) -> None:
        cells = [Cell(variant, seed) for seed in self.seeds for variant in self.variants]
        object.__setattr__(self, "cells", cells)


def make_grid(recipe: str, strategies: Sequence[str], sets: Sequence[str], seeds: Sequence[int]) -> Grid:
    """The grid of these strategies and sets. Raises: InputError."""
    if not strategies and not sets:
        raise InputError(
            "benchmark: nothing to compare; write --strategies uniform coupled_rhythm, or --set "
            + (next(iter(set_names(recipe)), "NAME"))
        )
    known = known_variants(recipe)
    wanted = [_of_strategy(name, known) for name in strategies]
    for name in sets:
        wanted += read_set(set_path(recipe, name))
    chosen: dict[str, Variant] = {}
    for variant in wanted:
        before = chosen.get(variant.name, variant)
        if before.settings != variant.settings:
            raise InputError(f"{variant.name}: two sets give it different settings; rename one")
        against = tuple(dict.fromkeys([*before.against, *variant.against]))
        chosen[variant.name] = replace(variant, against=against)
    for name in [BASELINE, *(name for variant in wanted for name in variant.against)]:
        if name not in chosen:
            if name != BASELINE and name not in known:
                raise InputError(f"against: {name!r} is not a variant; write one of {', '.join([*chosen, *known])}")
            chosen[name] = known.get(name) or Variant(BASELINE, {"credit_strategy": BASELINE})
    first = [variant for variant in chosen.values() if variant.name == BASELINE]
    others = [variant for variant in chosen.values() if variant.name != BASELINE]
    return Grid("-".join(["results", *(Path(name).stem for name in sets)]), [*first, *others], seeds)


def _of_strategy(name: str, known: Mapping[str, Variant]) -> Variant:
    """The variant that a strategy's name, or else the name of a variant in some set, stands for."""
    try:
        find_strategy(name)
    except ValueError as error:
        if name in known:
            return known[name]
        near = difflib.get_close_matches(name, known, 1)
        hint = f" (or the variant {near[0]} of a set)" if near else ""
        raise InputError(f"strategies: {' '.join(str(error).split())}{hint}") from error
    return Variant(name.replace(":", "."), {"credit_strategy": name})


# ---- sets ---------------------------------------------------------------------------------------------------------


def known_variants(recipe: str) -> dict[str, Variant]:
    """Every variant of the recipe's sets, by name."""
    variants: dict[str, Variant] = {}
    for name in set_names(recipe):
        for variant in read_set(set_path(recipe, name)):
            variants.setdefault(variant.name, variant)
    return variants


def set_names(recipe: str) -> list[str]:
    """The sets beside a recipe."""
    return sorted(path.stem for path in (find_recipe(recipe).parent / "sets").glob("*.yaml"))


def set_path(recipe: str, name: str) -> Path:
    """The file of a set: beside the recipe, or a path. Raises: InputError."""
    for path in (find_recipe(recipe).parent / "sets" / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    names = set_names(recipe)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"set: {name!r} is not a set; {hint}There are {', '.join(names) or 'none beside this recipe'}")


def read_set(path: Path) -> list[Variant]:
    """The variants of a set. Raises: InputError that names the line."""
    lines = load_yaml(path).items()
    return [variant for name, given in lines for variant in _variants(name, given.value, given.where)]


def _variants(name: str, settings: Any, where: str) -> list[Variant]:
    """The variants of one line: one, or the combinations of what it crosses."""
    if not isinstance(settings, dict) or "cross" not in settings:
        return [_variant(name, settings, where)]
    cross, rest = settings["cross"], {key: value for key, value in settings.items() if key != "cross"}
    if not isinstance(cross, dict) or not cross or not all(isinstance(v, list) and v for v in cross.values()):
        raise InputError(f"{where}: {name}: cross is {cross!r:.80}; write lists, {{credit_quantile: [0.2, 0.4]}} say")
    if both := sorted(set(cross) & set(rest)):
        raise InputError(f"{where}: {name}: {both[0]} is crossed and set; write it once")
    found = []
    for values in itertools.product(*cross.values()):
        combination = dict(zip(cross, values, strict=True))
        try:
            own = name.format(**{key: str(value).replace(":", ".") for key, value in combination.items()})
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(f"{where}: {name!r} is no name for what is crossed; write {{key}} of its keys") from error
        found.append(_variant(own, {**rest, **combination}, where))
    if len({variant.name for variant in found}) < len(found):
        raise InputError(f"{where}: {name!r} gives two variants one name; write {{key}} for each key that is crossed")
    return found


def _variant(name: str, settings: Any, where: str) -> Variant:
    if not NAME.fullmatch(name):
        raise InputError(f"{where}: {name!r} cannot name files; write letters, digits, _, . and -")
    if not isinstance(settings, dict):
        raise InputError(f"{where}: {name}: is {settings!r}; write settings such as {{credit_quantile: 0.2}}")
    given = dict(settings)
    against = given.pop("against", BASELINE)
    names = against if isinstance(against, list) else [against]
    if not names or not all(isinstance(item, str) for item in names):
        raise InputError(f"{where}: {name}: against is {against!r}; write the name of a variant, or a list of them")
    if odd := [key for key in given if not str(key).isidentifier()]:
        raise InputError(f"{where}: {name}: {odd[0]!r} is not a key; write one of `rlcredit train`, credit_alpha say")
    if own := [key for key in given if key in OF_A_CELL]:
        raise InputError(f"{where}: {name}: {own[0]} is set by the grid; leave it out")
    return Variant(name, given, tuple(names))


# ---- the command line ---------------------------------------------------------------------------------------------


def read_seeds(words: Iterable[str]) -> list[int]:
    """`0..4`, `0 1 5`, `0..2 7`: whole numbers from 0, none twice. Raises: InputError."""
    seeds: list[int] = []
    for word in words:
        match = re.fullmatch(r"(\d{1,9})(?:\.\.(\d{1,9}))?", str(word))
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first or last - first > 999:
            raise InputError(f"seeds: {word!r} is not a seed; write 0..4, or 0 1 2")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds: {' '.join(map(str, seeds))}: one stands there twice; write each once")
    if not seeds:
        raise InputError("seeds: is empty; write 0..4, or 0 1 2")
    return seeds


def split_words(argv: Sequence[str], own: Iterable[str]) -> tuple[list[str], list[str]]:
    """The words of the benchmark's own flags, and those of training."""
    names, mine, others = set(own), list[str](), list[str]()
    place = others
    for word in argv:
        if word.startswith("--"):
            place = mine if word[2:].partition("=")[0].replace("-", "_") in names else others
        place.append(word)
    return mine, others


def _words(value: Any) -> list[str]:
    """A value of YAML as the words of a flag."""
    if isinstance(value, bool) or value is None:
        return [json.dumps(value)]
    if isinstance(value, list):
        return [str(item) for item in value]
    return [json.dumps(value) if isinstance(value, dict) else str(value)]
