"""The strict reader of recipes and of the command line.

A recipe is flat YAML: one key a field of the run's dataclasses. Every key can be overridden on the command line, which
wins. TRL's `TrlParser` reads the same files, but lets through what a reader of the file would not see: a key written
twice (the last one counts), an abbreviated flag, and a YAML value of any type at all, since argparse converts only
strings. So values are checked against the annotations here and the dataclasses are made directly.

Where the two differ:

| | `TrlParser` | here |
|---|---|---|
| `--config=x` | an unknown flag | like `--config x` |
| `--credit_strat x`, a key or flag given twice | taken | refused, naming the nearest right key |
| `env:` in a recipe | sets environment variables | an unknown key |
| `max_steps: "10"`, `bf16: 1`, `run_name: [a]` | taken as they are | refused, naming the type |
| `1e-5` in YAML (a string in YAML 1.1) | the string, which fails later | the float |
| `010`, `1:30`, `0x10` in YAML (8, 90 and 16 in YAML 1.1) | taken | refused |
| choices | checked on the command line only | checked everywhere |
| `str | list[int]` from the command line | one string | one string or several integers |
| bare `--bf16` where the field is `bool | None` | an error | true |
| `--no_x` for a field that is true by default | taken | refused: write `--x false` |

Everything that is wrong with the input is an `InputError` of one line.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml

from rlcredit.errors import InputError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
NOT_RECIPES = {"accelerate", "policy"}

_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?inf")
_EXPONENT = re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
_OTHER_BASE = re.compile(r"[-+]?0[0-9_xb].*|.*:.*")
_TRUE, _FALSE = {"yes", "true", "t", "y", "1"}, {"no", "false", "f", "n", "0"}


class Recipe(NamedTuple):
    """A shipped recipe: its name for `--config`, its file, and the first line of its opening comment."""

    name: str
    path: Path
    description: str


class Option(NamedTuple):
    """A field of one of the dataclasses: what may be written for it."""

    name: str
    hint: Any
    field: dataclasses.Field[Any]
    keeps_json: bool
    """The dataclass itself decodes JSON strings (`_VALID_DICT_FIELDS` of transformers), with rules of its own."""


class Given(NamedTuple):
    """A value from the recipe or the command line, and where it was written, for messages."""

    value: Any
    where: str


class _Mismatch(Exception):
    """A value does not fit an annotation; the message is for the inside only, except a detail worth telling."""


# --- The public functions ---


def parse(argv: list[str], dataclass_types: Sequence[type]) -> tuple[Any, ...]:
    """One instance per dataclass, from `--config RECIPE` and `--key value` flags; the flags win.

    Raises:
        InputError: anything wrong with the recipe or the flags, the dataclasses' own checks included.
        TypeError: two dataclasses share a field, or have one called `config` (a mistake in the program).
    """
    options = _options(dataclass_types)
    flags = _split_flags(argv, options)
    given: dict[str, Given] = {}
    source = "command line"
    if (config := flags.pop("config", None)) is not None:
        if len(config) != 1 or not config[0]:
            raise InputError("--config: takes one recipe; write --config PATH, or --config NAME of a shipped recipe")
        path = find_recipe(config[0])
        source = str(path)
        given = _read_recipe(path, options)
    given |= {name: Given(_from_words(options[name], words), f"--{name}") for name, words in flags.items()}
    return tuple(_instance(dataclass_type, given, source) for dataclass_type in dataclass_types)


def recipes_root() -> Path:
    """Where the shipped recipes are: inside an installed wheel, else beside the package in a clone."""
    package = Path(__file__).resolve().parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


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
        for candidate in (Path(name), recipes_root() / name, recipes_root() / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
        kind = "is a directory, not a recipe" if Path(name).is_dir() else "no such recipe"
    except (OSError, ValueError) as error:  # a name too long for the file system, a null byte
        raise InputError(f"{_shown(name)}: no such recipe ({type(error).__name__})") from None
    names = [recipe.name for recipe in list_recipes()]
    near = difflib.get_close_matches(name.removesuffix(".yaml"), names, n=1, cutoff=0.4)
    advice = f"did you mean {near[0]}?" if near else "write the path of a .yaml file or the name of a shipped recipe"
    raise InputError(f"{_plain(name)}: {kind}; {advice}")


def _first_comment(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("#") and (text := line.strip("# \n")):
                return text
    return ""


# --- The fields ---


def _options(dataclass_types: Sequence[type]) -> dict[str, Option]:
    options: dict[str, Option] = {}
    for dataclass_type in dataclass_types:
        hints = get_type_hints(dataclass_type)
        keeps_json = getattr(dataclass_type, "_VALID_DICT_FIELDS", ())
        for item in dataclasses.fields(dataclass_type):
            if item.name in options or item.name == "config":
                raise TypeError(f"{dataclass_type.__name__}.{item.name}: the name is taken; rename the field")
            if item.init:
                options[item.name] = Option(item.name, hints[item.name], item, item.name in keeps_json)
    return options


def _instance(dataclass_type: type, given: Mapping[str, Given], source: str) -> Any:
    """The dataclass made from what was given for it; its own complaints become one line that says where."""
    needed = [item for item in dataclasses.fields(dataclass_type) if item.init]
    for item in needed:
        has_default = item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING
        if not has_default and item.name not in given:
            raise InputError(f"{source}: {item.name} is missing; write {item.name}: VALUE, or --{item.name} VALUE")
    values = {item.name: given[item.name].value for item in needed if item.name in given}
    try:
        return dataclass_type(**values)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise InputError(_with_place(_one_line(error), dataclass_type, given, source)) from error


def _with_place(message: str, dataclass_type: type, given: Mapping[str, Given], source: str) -> str:
    """The dataclass's message after the place of the first given key it names; our own start with the key already."""
    for name in re.findall(r"\w+", message):
        if name in given and name in dataclass_type.__dataclass_fields__:  # type: ignore[attr-defined]
            return f"{given[name].where}: {message.removeprefix(f'{name}: ')}"
    return f"{source}: {message}"


def _unknown(name: str, options: Iterable[str]) -> str:
    """Advice after an unknown key: the key it abbreviates, else the nearest one."""
    name, names = name.replace("-", "_"), list(options)
    begun = [option for option in names if len(name) > 2 and option.startswith(name)]
    near = begun[:1] or difflib.get_close_matches(name, names, n=1)
    return near[0] if near else ""


# --- The command line ---


def _split_flags(argv: Sequence[str], options: Mapping[str, Option]) -> dict[str, list[str]]:
    """`--key` to the words that follow it. A word that starts with `--` begins a flag; `-1` is a value."""
    flags: dict[str, list[str]] = {}
    current: list[str] | None = None
    for word in argv:
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            name = _flag_name(flag, options)
            if name in flags:
                raise InputError(f"--{name}: given twice; keep one")
            flags[name] = [value] if equals else []
            current = None if equals else flags[name]
        elif current is None or (word.startswith("-") and not _NUMBER.fullmatch(word) and word != "-"):
            raise InputError(f"{_shown(word)}: stands alone; every option is written --key value or --key=value")
        else:
            current.append(word)
    return flags


def _flag_name(flag: str, options: Mapping[str, Option]) -> str:
    name = flag.replace("-", "_")
    if name in options or name == "config":
        return name
    negated = options.get(name.removeprefix("no_"))
    if negated is not None and bool in _members(negated.hint):
        raise InputError(f"--{flag}: unknown flag; write --{negated.name} false")
    near = _unknown(flag, [*options, "config"])
    raise InputError(f"--{_plain(flag)}: unknown flag" + (f"; did you mean --{near}?" if near else ""))


def _from_words(option: Option, words: list[str]) -> Any:
    """The value that the words after `--key` stand for, tried from the narrowest type to the widest."""
    members = _members(option.hint)
    if not words:
        if bool in members:
            return True
        if option.field.metadata.get("nargs") == "?":
            return option.field.metadata.get("const")
        raise InputError(f"--{option.name}: a value is missing; expected {_describe(option)}")
    if len(words) == 1 and words[0].lstrip().startswith("{") and _takes_mapping(option):
        return _from_json(option, words[0].strip(), f"--{option.name}")
    for member in sorted(members, key=_width):
        try:
            return _checked_choice(option, _read_words(words, member, members), f"--{option.name}")
        except _Mismatch:
            continue
    _refuse_value(option, words[0] if len(words) == 1 else words, f"--{option.name}", from_words=True)


def _width(member: Any) -> int:
    """Order of trying: what few texts fit goes first, so `3` is an int, [3] or True before it is a string.

    A single word is a plain string before it is a list of strings, which is how `TrlParser` reads `--report_to wandb`.
    """
    if get_origin(member) is list and get_args(member)[:1] not in ((), (str,)):
        return 2
    if _is_choice(member):
        return 3
    return {type(None): 0, int: 1, float: 4, bool: 5, str: 6}.get(member, 7)


def _read_words(words: list[str], member: Any, members: Sequence[Any]) -> Any:
    if get_origin(member) is list or member is list:
        item = (get_args(member) or (str,))[0]
        return [_read_word(word, item, members) for word in words]
    if len(words) != 1:
        raise _Mismatch
    return _read_word(words[0], member, members)


def _read_word(word: str, member: Any, members: Sequence[Any]) -> Any:
    """The word as this type. Like `TrlParser`, `none` is None unless the field takes it as an ordinary string."""
    if member in (str, Any):
        return word
    if member is type(None) and (str not in members or _has_mapping(members)) and word.lower() in ("none", "null"):
        return None
    if member is bool and word.lower() in _TRUE | _FALSE:
        return word.lower() in _TRUE
    if member is int and _INTEGER.fullmatch(word) and len(word) < 100:
        return int(word)
    if member is float and _NUMBER.fullmatch(word):
        return float(word)
    if _is_choice(member):
        for choice in _choices_of(member):
            if word == str(choice) or (isinstance(choice, bool) and word.lower() == str(choice).lower()):
                return member(choice) if isinstance(member, type) else choice
    raise _Mismatch


def _from_json(option: Option, text: str, where: str) -> Any:
    """A mapping written as JSON; the text itself where the dataclass decodes it (and turns "1" into 1 inside)."""

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if repeated := [key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index])]:
            raise ValueError(f"duplicate key {repeated[0]!r}")
        return dict(pairs)

    try:
        mapping = json.loads(text, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        advice = "write --key '{\"name\": value}'".replace("key", option.name)
        raise InputError(f"{where}: {_shown(text)} is not JSON ({_one_line(error)}); {advice}") from None
    value = _fitted(option, mapping, where)
    return text if option.keeps_json else value


# --- The recipe ---


def _read_recipe(path: Path, options: Mapping[str, Option]) -> dict[str, Given]:
    """Every value of the recipe, checked against its field."""
    given = {}
    for key, (value, where) in _load_yaml(path).items():
        if key not in options:
            near = _unknown(key, options)
            raise InputError(f"{where}: unknown key {_shown(key)}" + (f"; did you mean {near}?" if near else ""))
        option, where = options[key], f"{where}: {key}"
        if isinstance(value, str) and value.lstrip().startswith("{") and _takes_mapping(option):
            value = _from_json(option, value.strip(), where)
        else:
            value = _fitted(option, value, where)
        given[key] = Given(value, where)
    return given


def _load_yaml(path: Path) -> dict[str, Given]:
    """The recipe's top-level keys with their values and `file:line`."""
    try:
        loader = _RecipeLoader(_text(path))
        node = loader.get_single_node()
        if node is None:
            raise InputError(f"{path}: is empty; a recipe is a list of `key: value` lines")
        if not isinstance(node, yaml.MappingNode):
            raise InputError(f"{path}: is not a list of `key: value` lines")
        values = loader.construct_document(node)
        lines = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"{place}: {_one_line(error.problem or error.context or error)}") from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # a control character; a number longer than Python converts
        raise InputError(f"{path}: {_one_line(error)}") from None
    return {key: Given(value, f"{path}:{lines[key]}") for key, value in values.items()}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: is larger than {MAX_BYTES:,} bytes, which no recipe is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start})") from None


class _RecipeLoader(yaml.SafeLoader):
    """Plain data only: no tags, anchors or aliases, no key twice, no deep nesting, no number in another base."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse before anything is built: an alias could otherwise stand for gigabytes, a tag for an object."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            _refuse_node("anchors (&) and aliases (*) are not used in recipes; write the value out", event)
        if event.tag is not None:
            _refuse_node(f"tags (here {_plain(event.tag)}) are not used in recipes; write a plain value", event)
        if self._depth >= MAX_DEPTH:
            _refuse_node(f"nested deeper than {MAX_DEPTH} levels", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if key_node.tag != "tag:yaml.org,2002:str":  # a number, a boolean such as `on`, a list, the merge key <<
                shown = _shown(key) if isinstance(key, str) else f"(a {key_node.id})"
                _refuse_node(f"the key {shown} is not a string; quote it", key_node)
            if key in mapping:
                _refuse_node(f"duplicate key {_shown(key)}; keep one", key_node)
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        if _OTHER_BASE.fullmatch(node.value):
            _refuse_node(
                f"{_plain(node.value)} is in another base in YAML 1.1; write it in decimal, or quote it", node
            )
        is_int = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)


_RecipeLoader.add_constructor("tag:yaml.org,2002:int", _RecipeLoader.construct_number)
_RecipeLoader.add_constructor("tag:yaml.org,2002:float", _RecipeLoader.construct_number)
_RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _refuse_node(problem: str, node: Any) -> NoReturn:
    """Refuse a YAML node or event where it stands."""
    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)


# --- Values and annotations ---


def _members(hint: Any) -> list[Any]:
    """The alternatives of an annotation. `Enum | str` means the enum: transformers writes it so for the values."""
    is_union = get_origin(hint) in (Union, types.UnionType)
    members = list(get_args(hint)) if is_union else [hint]
    if any(isinstance(member, type) and issubclass(member, Enum) for member in members):
        return [member for member in members if member is not str]
    return members


def _fitted(option: Option, value: Any, where: str) -> Any:
    """`value` from YAML or JSON as the field's type, or an InputError."""
    metadata = option.field.metadata
    if metadata.get("nargs") == "?" and value is metadata.get("const"):
        return value  # what the bare flag stands for, such as `fsdp: true`
    members = _members(option.hint)
    # A value's own type first: 3 is an int where both int and float are allowed.
    for convert in (_same, _widened):
        for member in members:
            try:
                return _checked_choice(option, convert(value, member), where)
            except _Mismatch:
                continue
    _refuse_value(option, value, where)


def _same(value: Any, member: Any) -> Any:
    """`value` if it is of the type `member`; a list's items and a mapping's values may be widened (1 to 1.0)."""
    origin, arguments = get_origin(member) or member, get_args(member)
    if member is Any:
        return value
    if _is_choice(member):
        for choice in _choices_of(member):
            if type(choice) is type(value) and choice == value:
                return member(choice) if isinstance(member, type) else value
    elif origin is list and isinstance(value, list):
        return [_any_of(item, arguments[0]) for item in value] if arguments else value
    elif origin is dict and isinstance(value, dict):
        return {key: _any_of(item, arguments[1]) for key, item in value.items()} if arguments else value
    elif type(value) is origin and value == value:  # NaN, unlike itself, is no setting
        return value
    raise _Mismatch


def _any_of(value: Any, hint: Any) -> Any:
    for convert in (_same, _widened):
        for member in _members(hint):
            try:
                return convert(value, member)
            except _Mismatch:
                continue
    raise _Mismatch


def _widened(value: Any, member: Any) -> Any:
    """An int, or a string that is a number, where a float belongs."""
    if member is float and type(value) in (int, str) and _NUMBER.fullmatch(str(value)):
        try:
            return float(value)
        except OverflowError:
            pass
    raise _Mismatch


def _checked_choice(option: Option, value: Any, where: str) -> Any:
    """`value` if the field's `choices` metadata allows it; None is allowed where the annotation does."""
    choices = option.field.metadata.get("choices")
    if choices is not None and value is not None:
        for item in value if isinstance(value, list) else [value]:
            if item not in choices:
                _refuse_value(option, item, where)
    return value


def _is_choice(member: Any) -> bool:
    return get_origin(member) is Literal or (isinstance(member, type) and issubclass(member, Enum))


def _choices_of(member: Any) -> list[Any]:
    if get_origin(member) is Literal:
        return list(get_args(member))
    return [item.value for item in member]


def _has_mapping(members: Iterable[Any]) -> bool:
    return any((get_origin(member) or member) is dict for member in members)


def _takes_mapping(option: Option) -> bool:
    return _has_mapping(_members(option.hint))


# --- Messages ---


def _refuse_value(option: Option, value: Any, where: str, *, from_words: bool = False) -> NoReturn:
    kind = "" if from_words else f" ({_name(type(value))})"
    raise InputError(f"{where}: expected {_describe(option)}, got {_shown(value)}{kind}{_advice(option, value)}")


def _describe(option: Option) -> str:
    if choices := _all_choices(option):
        return f"one of {', '.join(map(str, choices))}"
    return " or ".join(_name(member) for member in _members(option.hint))


def _all_choices(option: Option) -> list[Any]:
    """Every allowed value, when the field takes nothing but a choice (or None)."""
    if choices := option.field.metadata.get("choices"):
        return list(choices)
    members = [member for member in _members(option.hint) if member is not type(None)]
    return [choice for m in members for choice in _choices_of(m)] if all(map(_is_choice, members)) else []


def _advice(option: Option, value: Any) -> str:
    members, choices = _members(option.hint), _all_choices(option)
    near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    if near:
        return f"; did you mean {near[0]}?"
    if isinstance(value, bool) and (str in members or choices):
        return "; YAML reads an unquoted no, off or false as a boolean: quote it"
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE | {"on", "off"} and bool in members:
        return "; write true or false, unquoted"
    if isinstance(value, str) and _INTEGER.fullmatch(value) and int in members:
        return "; write the number without quotes"
    return ""


def _name(member: Any) -> str:
    if member is type(None):
        return "null"
    arguments = get_args(member)
    if get_origin(member) is list:
        return f"list of {' or '.join(map(_name, _members(arguments[0])))}"
    if _is_choice(member):
        return " or ".join(map(str, _choices_of(member)))
    origin = get_origin(member) or member
    return "mapping" if origin is dict else str(getattr(origin, "__name__", origin))


def _shown(value: Any) -> str:
    """A value of the user's, short and on one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(text: str) -> str:
    """A word of the user's without quotes around it, short and printable."""
    return text if text.isprintable() and len(text) <= 80 else _shown(text)


def _one_line(error: object) -> str:
    # A KeyError's own text is the bare key.
    text = f"unknown {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split()) or type(error).__name__
