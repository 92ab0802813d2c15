"""Flags of the command line, and the values that the words after them stand for."""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

from rlcredit.config.fields import (
    FALSE,
    INTEGER,
    NUMBER,
    TRUE,
    Mismatch,
    Option,
    checked_choice,
    choices_of,
    describe,
    from_json,
    is_choice,
    members_of,
    refuse_value,
    takes_mapping,
)
from rlcredit.config.messages import plain, shown
from rlcredit.config.yaml_file import Given, load_value
from rlcredit.errors import InputError


def hint_on_unknown(name: str, options: Iterable[str], advice: Mapping[str, str], prefix: str = "") -> str:
    """How the message on an unknown key ends: the advice on it, else the key that it abbreviates or resembles."""
    base, names = name.replace("-", "_").partition(".")[0], list(options)
    for asked in (re.sub(r"[-.]", "_", name), base):
        if asked in advice:
            return f"; {advice[asked]}"
    begun = [option for option in names if len(base) > 2 and option.startswith(base)]
    # closer than difflib's 0.6: a slip of the finger, and no key that only sounds alike
    near = begun[:1] or difflib.get_close_matches(base, names, n=1, cutoff=0.75)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def split_flags(
    argv: Sequence[str], options: Mapping[str, Option], advice: Mapping[str, str]
) -> tuple[dict[str, list[str]], list[str]]:
    """`--key` to the words that follow it, and what is wrong with the flags that no field has.

    A word that starts with `--` begins a flag; `-1` is a value.
    """
    flags: dict[str, list[str]] = {}
    unknown: list[str] = []
    current: list[str] | None = None
    for word in argv:
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            name = _flag_name(flag, options)
            if name is None:
                unknown.append(_on_unknown_flag(flag, options, advice))
                current = []
                continue
            if name in flags:
                raise InputError(f"--{name}: given twice; keep one")
            flags[name] = [value] if equals else []
            current = None if equals else flags[name]
        elif current is None or (word.startswith("-") and not NUMBER.fullmatch(word) and word != "-"):
            raise InputError(f"{shown(word)}: belongs to no flag; write options as --key value or --key=value")
        else:
            current.append(word)
    return flags, unknown


def _flag_name(flag: str, options: Mapping[str, Option]) -> str | None:
    name = flag.replace("-", "_")
    if name in options or name == "config":
        return name
    base, dot, inside = flag.partition(".")
    if dot and inside and (option := options.get(base.replace("-", "_"))) and takes_mapping(option):
        return f"{option.name}.{inside}"
    return None


def _on_unknown_flag(flag: str, options: Mapping[str, Option], advice: Mapping[str, str]) -> str:
    name = flag.replace("-", "_")
    negated = options.get(name.removeprefix("no_"))
    if negated is not None and bool in members_of(negated.hint):
        return f"--{flag}: unknown flag; write --{negated.name} false"
    return f"--{plain(flag)}: unknown flag{hint_on_unknown(name, [*options, 'config'], advice, prefix='--')}"


def with_dotted(given: Mapping[str, Given], dotted: Mapping[str, list[str]]) -> dict[str, Given]:
    """The given values, with `--task_options.num_test 100` and the like put inside their mappings."""
    combined = dict(given)
    for flag, words in dotted.items():
        name, *path = flag.split(".")
        known = combined[name].value if name in combined else None
        mapping = copy.deepcopy(decoded(known) if isinstance(known, str) else known) or {}
        if not isinstance(mapping, dict):
            raise InputError(f"--{plain(flag)}: {name} is {shown(known)}, and not a mapping")
        place = mapping
        for key in path[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise InputError(f"--{plain(flag)}: {key} is {shown(place)}, and not a mapping")
        place[path[-1]] = _plain_value(words, f"--{flag}")
        combined[name] = Given(json.dumps(mapping, default=str) if isinstance(known, str) else mapping, f"--{flag}")
    return combined


def decoded(text: str) -> Any:
    """What a text of JSON holds; another text as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _plain_value(words: list[str], where: str) -> Any:
    """Words after a dotted flag, read as the values of a recipe are; none: true; several: a list."""
    values = [load_value(word, where) for word in words] or [True]
    return values[0] if len(values) == 1 else values


def from_words(option: Option, words: list[str]) -> Any:
    """The value that the words after `--key` stand for, tried from the narrowest type to the widest."""
    members = members_of(option.hint)
    if not words:
        if bool in members:
            return True
        if option.field.metadata.get("nargs") == "?":
            return option.field.metadata.get("const")
        raise InputError(f"--{option.name}: a value is missing; expected {describe(option)}")
    if len(words) == 1 and words[0].lstrip().startswith("{") and takes_mapping(option):
        return from_json(option, words[0].strip(), f"--{option.name}")
    if (text := " ".join(words).strip())[:1] + text[-1:] == "[]" and str not in members and 2 in map(_width, members):
        words = text[1:-1].replace(",", " ").split()  # as a recipe writes it
    for member in sorted(members, key=_width):
        try:
            return checked_choice(option, _read_words(words, member, option), f"--{option.name}")
        except Mismatch:
            continue
    refuse_value(option, words[0] if len(words) == 1 else words, f"--{option.name}", from_words=True)


def _width(member: Any) -> int:
    """Order of trying: types that few texts fit come first, so `3` is an int, [3] or True before it is a string.

    A single word is a plain string before it is a list of strings, which is how `TrlParser` reads `--report_to wandb`.
    """
    if get_origin(member) is list and get_args(member)[:1] not in ((), (str,)):
        return 2
    if is_choice(member):
        return 3
    return {type(None): 0, int: 1, float: 4, bool: 5, str: 6}.get(member, 7)


def _read_words(words: list[str], member: Any, option: Option) -> Any:
    if get_origin(member) is list or member is list:
        item = (get_args(member) or (str,))[0]
        return [_read_word(word, item, option) for word in words]
    if len(words) != 1:
        raise Mismatch
    return _read_word(words[0], member, option)


def _read_word(word: str, member: Any, option: Option) -> Any:
    """The word as this type. Like `TrlParser`, `none` is None unless the field takes it as an ordinary string."""
    if member in (str, Any):
        return word
    takes_none = str not in members_of(option.hint) or takes_mapping(option)
    if member is type(None) and takes_none and word.lower() in ("none", "null"):
        return None
    if member is bool and word.lower() in TRUE | FALSE:
        return word.lower() in TRUE
    if member is int and INTEGER.fullmatch(word) and len(word) < 100:
        return int(word)
    if member is float and NUMBER.fullmatch(word):
        return float(word)
    if is_choice(member):
        for choice in choices_of(member):
            if word == str(choice) or (isinstance(choice, bool) and word.lower() == str(choice).lower()):
                return member(choice) if isinstance(member, type) else choice
    raise Mismatch
