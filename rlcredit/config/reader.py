"""The strict reader of recipes and of the command line.

A recipe is flat YAML: one key a field of the run's dataclasses. Every key can be overridden on the command line, which
wins. TRL's `TrlParser` reads the same files, but accepts mistakes that are easily overlooked: a key written twice (the
last one counts), an abbreviated flag, and a YAML value of any type, since argparse converts only strings. Here, values
are checked against the annotations, and the dataclasses are made directly.

Where the two differ:

| | `TrlParser` | here |
|---|---|---|
| `--config=x` | an unknown flag | like `--config x` |
| `--credit_strat x`, a key or flag given twice | taken | refused, naming the nearest right key |
| `env:` in a recipe | sets environment variables | an unknown key |
| `max_steps: "10"`, `bf16: 1`, `run_name: [a]` | taken as they are | refused, naming the type |
| `1e-5` in YAML (a string in YAML 1.1) | the string, which fails later | the float |
| `010`, `1:30`, `0x10` in YAML (8, 90 and 16 in YAML 1.1) | taken | refused |
| `reward_funcs: a` where a list of texts belongs | a list of its letters, where one is read | the list of one text |
| choices | checked on the command line only | checked everywhere |
| `str | list[int]` from the command line | one string | one string or several integers |
| `--task_options.num_test 8` | an unknown flag | sets a key inside a mapping, the value read as YAML |
| `~/runs` | a folder called `~` | the home folder |
| bare `--bf16` where the field is `bool | None` | an error | true |
| `--no_x` for a field that is true by default | taken | refused: write `--x false` |

Everything that is wrong with the input is an `InputError` of one line; unknown keys are listed at once, a line each.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlcredit.config.fields import FALSE, Option, fitted, from_json, options_of, takes_mapping
from rlcredit.config.flags import from_words, hint_on_unknown, split_flags, with_dotted
from rlcredit.config.messages import one_line, shown
from rlcredit.config.shipped import find_recipe
from rlcredit.config.yaml_file import Given, load_yaml
from rlcredit.errors import InputError

# What TRL and transformers raise for their settings: a file that is not there, a package, a division by 0.
_REFUSALS = (ValueError, TypeError, KeyError, OSError, ImportError, ArithmeticError)


def parse(
    argv: list[str], dataclass_types: Sequence[type], elsewhere: Mapping[str, str] | None = None
) -> tuple[Any, ...]:
    """One instance per dataclass, from `--config RECIPE` and `--key value` flags; the flags win.

    Args:
        argv: the words of the command line.
        dataclass_types: whose fields are the keys.
        elsewhere: advice on keys that are unknown here, but not to other runs, releases or programs.

    Raises:
        InputError: anything wrong with the recipe or the flags, the dataclasses' own checks included.
        TypeError: two dataclasses share a field, or have one called `config` (a mistake in the program).
    """
    options = options_of(dataclass_types)
    advice = {key: text for key, text in (elsewhere or {}).items() if key not in options}
    flags, given, source = read_keys(argv, options, advice)
    given = {key: _checked(options[key], value, where) for key, (value, where) in given.items()}
    dotted = {flag: flags.pop(flag) for flag in list(flags) if "." in flag}
    given |= {name: Given(from_words(options[name], words), f"--{name}") for name, words in flags.items()}
    given = {key: Given(_from_home(value), where) for key, (value, where) in with_dotted(given, dotted).items()}
    return tuple(_instance(dataclass_type, given, source) for dataclass_type in dataclass_types)


def read_keys(
    argv: Sequence[str], options: Mapping[str, Option], advice: Mapping[str, str]
) -> tuple[dict[str, list[str]], dict[str, Given], str]:
    """The flags with their words, the recipe's keys with their values, and the recipe's name, all values unchecked.

    Raises: InputError, for all unknown keys at once.
    """
    flags, unknown = split_flags(argv, options, advice)
    given: dict[str, Given] = {}
    source = "command line"
    if (config := flags.pop("config", None)) is not None:
        if len(config) != 1 or not config[0]:
            raise InputError("--config: takes one recipe; write --config PATH, or --config NAME of a shipped recipe")
        path = find_recipe(config[0])
        source = str(path)
        given = load_yaml(path)
        odd = [(key, where) for key, (_, where) in given.items() if key not in options]
        unknown += [f"{where}: unknown key {shown(key)}{hint_on_unknown(key, options, advice)}" for key, where in odd]
    if len(unknown) == 1:
        raise InputError(unknown[0])
    if unknown:
        raise InputError(f"{len(unknown)} keys are unknown:", unknown)
    return flags, given, source


def peek(argv: Sequence[str], key: str) -> Any:
    """The value of one key, unchecked, or None: for choosing the dataclasses that the other keys belong to."""
    flags: dict[str, str] = {}
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        flags.setdefault(name, value if equals else following)
    if f"--{key}" in flags:
        return flags[f"--{key}"] if flags[f"--{key}"].lower() not in FALSE else False
    if recipe := flags.get("--config"):
        given = load_yaml(find_recipe(recipe)).get(key)
        return given.value if given else None
    return None


def given_values(argv: Sequence[str]) -> dict[str, Any]:
    """The keys that the recipe and the flags set, of words that `parse` takes, with their values as they were written.

    Of a flag `--key.part` the key.
    """
    recipe = peek(argv, "config")
    values = {key: value for key, (value, _) in load_yaml(find_recipe(recipe)).items()} if recipe else {}
    flag = ""
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flag = name.partition(".")[0].replace("-", "_")
            values[flag] = value if equals else None
        elif flag:
            values[flag] = word if values[flag] is None else f"{values[flag]} {word}"
    return {key: value for key, value in values.items() if key != "config"}


def _instance(dataclass_type: type, given: Mapping[str, Given], source: str) -> Any:
    """The dataclass made from the values given for it; its own refusals become one line that says where."""
    needed = [item for item in dataclasses.fields(dataclass_type) if item.init]
    for item in needed:
        has_default = item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING
        if not has_default and item.name not in given:
            raise InputError(f"{source}: {item.name} is missing; write {item.name}: VALUE, or --{item.name} VALUE")
    values = {item.name: given[item.name].value for item in needed if item.name in given}
    try:
        return dataclass_type(**values)
    except _REFUSALS as error:
        message = one_line(error)
        # messages of rlcredit start with the key, those of TRL and transformers may not name it at all
        named = next((word for word in re.findall(r"\w+", message) if word in values), None)
        name = named or _culprit(dataclass_type, values, given)
        where = given[name].where if name else source
        raise InputError(f"{where}: {message.removeprefix(f'{name}: ')}") from error


def _culprit(dataclass_type: type, values: Mapping[str, Any], given: Mapping[str, Given]) -> str | None:
    """The key without which the dataclass accepts the rest; flags are tried before lines of the recipe."""
    for name in sorted(values, key=lambda name: not given[name].where.startswith("--")):
        try:
            dataclass_type(**{other: value for other, value in values.items() if other != name})
        except _REFUSALS:
            continue
        return name
    return None


def _checked(option: Option, value: Any, where: str) -> Given:
    """A value of the recipe, checked against its field."""
    where = f"{where}: {option.name}"
    if isinstance(value, str) and value.lstrip().startswith("{") and takes_mapping(option):
        return Given(from_json(option, value.strip(), where), where)
    return Given(fitted(option, value, where), where)


def _from_home(value: Any) -> Any:
    """A text that begins with `~/` with the home folder in its place: only paths begin so."""
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value
