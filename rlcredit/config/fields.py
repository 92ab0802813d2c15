"""Fields of dataclasses: their list for --help, and whether a value from YAML or JSON fits their annotation."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin, get_type_hints

from rlcredit.config.messages import one_line, shown
from rlcredit.errors import InputError

INTEGER = re.compile(r"[-+]?[0-9]+")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?inf")
TRUE, FALSE = {"yes", "true", "t", "y", "1"}, {"no", "false", "f", "n", "0"}


class Option(NamedTuple):
    """A field of one of the dataclasses, with the annotation that its values must fit."""

    name: str
    hint: Any
    field: dataclasses.Field[Any]
    keeps_json: bool
    """Whether the dataclass decodes JSON strings itself (`_VALID_DICT_FIELDS` of transformers)."""


class Mismatch(Exception):
    """A value does not fit an annotation. The caller, who knows the field, words the message; or the text does."""


def options_of(dataclass_types: Sequence[type]) -> dict[str, Option]:
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


def members_of(hint: Any) -> list[Any]:
    """The alternatives of an annotation. `Enum | str` is the enum alone: transformers adds `str` for its values."""
    is_union = get_origin(hint) in (Union, types.UnionType)
    members = list(get_args(hint)) if is_union else [hint]
    if any(isinstance(member, type) and issubclass(member, Enum) for member in members):
        return [member for member in members if member is not str]
    return members


def fitted(option: Option, value: Any, where: str) -> Any:
    """`value` from YAML or JSON as the field's type, or an InputError."""
    metadata = option.field.metadata
    if metadata.get("nargs") == "?" and value is metadata.get("const"):
        return value  # what the bare flag stands for, such as `fsdp: true`
    try:
        value = _converted(value, option.hint)
    except Mismatch as mismatch:
        if mismatch.args:
            raise InputError(f"{where}: {mismatch}") from None
        refuse_value(option, value, where)
    return checked_choice(option, value, where)


def _same(value: Any, member: Any) -> Any:
    """`value` if it is of the type `member`; a list's items and a mapping's values may be widened (1 to 1.0)."""
    origin, arguments = get_origin(member) or member, get_args(member)
    if member is Any:
        return value
    if is_choice(member):
        for choice in choices_of(member):
            if type(choice) is type(value) and choice == value:
                return member(choice) if isinstance(member, type) else value
    elif dataclasses.is_dataclass(member) and isinstance(value, dict):
        return _record(value, member)
    elif origin is list and isinstance(value, list):
        return [_converted(item, arguments[0]) for item in value] if arguments else value
    elif origin is dict and isinstance(value, dict):
        return {key: _converted(item, arguments[1]) for key, item in value.items()} if arguments else value
    elif type(value) is origin and value == value:  # NaN, which differs from itself, is refused
        return value
    raise Mismatch


def _record(value: dict[str, Any], kind: Any) -> dict[str, Any]:
    """A mapping whose keys are fields of a dataclass, such as an entry of TRL's `datasets`, with fitting values."""
    hints = get_type_hints(kind)
    if odd := [key for key in value if key not in hints]:
        unknown = f"the unknown key{'s' if len(odd) > 1 else ''} {', '.join(map(shown, odd))}"
        raise Mismatch(f"an entry has {unknown}; the keys are {', '.join(hints)}")
    found = {}
    for key, item in value.items():
        try:
            found[key] = _converted(item, hints[key])
        except Mismatch:
            expected = " or ".join(map(_name, members_of(hints[key])))
            raise Mismatch(f"an entry has {key} {shown(item)}; write {expected}") from None
    return found


def _converted(value: Any, hint: Any) -> Any:
    said = Mismatch()
    for convert in (_same, _widened):  # a value's own type first: 3 is an int where both int and float are allowed
        for member in members_of(hint):
            try:
                return convert(value, member)
            except Mismatch as mismatch:
                said = mismatch if mismatch.args else said
    raise said


def _widened(value: Any, member: Any) -> Any:
    """An int, or a string that is a number, where a float belongs; a single text where a list of texts does."""
    if member == list[str] and isinstance(value, str):
        return [value]
    if member is float and type(value) in (int, str) and NUMBER.fullmatch(str(value)):
        try:
            return float(value)
        except OverflowError:
            pass
    raise Mismatch


def checked_choice(option: Option, value: Any, where: str) -> Any:
    """`value` if the field's `choices` metadata allows it; None is allowed where the annotation does."""
    choices = option.field.metadata.get("choices")
    if choices is not None and value is not None:
        for item in value if isinstance(value, list) else [value]:
            if item not in choices:
                refuse_value(option, item, where)
    return value


def from_json(option: Option, text: str, where: str) -> Any:
    """A mapping written as JSON, checked; returned as text where the dataclass decodes it (and turns "1" into 1)."""

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if repeated := [key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index])]:
            raise ValueError(f"duplicate key {repeated[0]!r}")
        return dict(pairs)

    try:
        mapping = json.loads(text, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        advice = "write --key '{\"name\": value}'".replace("key", option.name)
        raise InputError(f"{where}: {shown(text)} is not JSON ({one_line(error)}); {advice}") from None
    value = fitted(option, mapping, where)
    return text if option.keeps_json else value


def is_choice(member: Any) -> bool:
    return get_origin(member) is Literal or (isinstance(member, type) and issubclass(member, Enum))


def choices_of(member: Any) -> list[Any]:
    if get_origin(member) is Literal:
        return list(get_args(member))
    return [item.value for item in member]


def takes_mapping(option: Option) -> bool:
    return any((get_origin(member) or member) is dict for member in members_of(option.hint))


def refuse_value(option: Option, value: Any, where: str, *, from_words: bool = False) -> NoReturn:
    kind = "" if from_words else f" ({_name(type(value))})"
    raise InputError(f"{where}: expected {describe(option)}, got {shown(value)}{kind}{_advice(option, value)}")


def describe(option: Option) -> str:
    if choices := _all_choices(option):
        return f"one of {', '.join(map(str, choices))}"
    return " or ".join(_name(member) for member in members_of(option.hint))


def _all_choices(option: Option) -> list[Any]:
    """Every allowed value of a field that takes only choices (or None)."""
    if choices := option.field.metadata.get("choices"):
        return list(choices)
    members = [member for member in members_of(option.hint) if member is not type(None)]
    return [choice for m in members for choice in choices_of(m)] if all(map(is_choice, members)) else []


def _advice(option: Option, value: Any) -> str:
    members, choices = members_of(option.hint), _all_choices(option)
    near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    if near:
        return f"; did you mean {near[0]}?"
    if isinstance(value, bool) and (str in members or choices):
        return "; YAML reads an unquoted no, off or false as a boolean: quote it"
    if isinstance(value, str) and value.lower() in TRUE | FALSE | {"on", "off"} and bool in members:
        return "; write true or false, unquoted"
    if isinstance(value, str) and INTEGER.fullmatch(value) and int in members:
        return "; write the number without quotes"
    return ""


def _name(member: Any) -> str:
    if member is type(None):
        return "null"
    arguments = get_args(member)
    if get_origin(member) is list:
        return f"list of {' or '.join(map(_name, members_of(arguments[0])))}"
    if is_choice(member):
        return " or ".join(map(str, choices_of(member)))
    origin = get_origin(member) or member
    is_mapping = origin is dict or dataclasses.is_dataclass(origin)
    return "mapping" if is_mapping else str(getattr(origin, "__name__", origin))


def list_keys(items: Iterable[dataclasses.Field[Any]]) -> str:
    """Each key with its default, and its help below."""
    return "".join(f"  {item.name} ({_default_of(item)})\n      {item.metadata['help']}\n" for item in items)


def _default_of(item: dataclasses.Field[Any]) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return "needed" if item.default is dataclasses.MISSING else item.default
