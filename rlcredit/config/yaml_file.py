"""Plain data from YAML: no tags, no aliases, no key twice, no surprises of YAML 1.1."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from rlcredit.config.messages import one_line, plain, shown
from rlcredit.errors import InputError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20

_EXPONENT = re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
_OTHER_BASE = re.compile(r"[-+]?0[0-9_xb].*|.*:.*")


class Given(NamedTuple):
    """A value from the recipe or the command line, and where it was written, for messages."""

    value: Any
    where: str


def load_yaml(path: Path) -> dict[str, Given]:
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
        raise InputError(f"{place}: {one_line(error.problem or error.context or error)}") from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # a control character; a number longer than Python converts
        raise InputError(f"{path}: {one_line(error)}") from None
    return {key: Given(value, f"{path}:{lines[key]}") for key, value in values.items()}


def load_value(text: str, where: str) -> Any:
    """The value that a text stands for in a recipe; an empty text, and one with `#` in it, stay as they are.

    Raises: InputError for what is no YAML, and for `key: value` without braces.
    """
    try:
        loader = _RecipeLoader(text)
        node = loader.get_single_node()
        if node is None or (isinstance(node, yaml.ScalarNode) and not node.style and node.value != text.strip()):
            return text
        if isinstance(node, yaml.CollectionNode) and not node.flow_style:
            raise ValueError("a mapping or a list needs its brackets")
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or error
        raise InputError(
            f"{where}: {shown(text)} is not a YAML value ({one_line(problem)}); write a text in quotes within the "
            f"shell's: '{plain(json.dumps(text, ensure_ascii=False))}'"
        ) from None


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
            _refuse_node(f"tags (here {plain(event.tag)}) are not used in recipes; write a plain value", event)
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
                name = shown(key) if isinstance(key, str) else f"(a {key_node.id})"
                _refuse_node(f"the key {name} is not a string; quote it", key_node)
            if key in mapping:
                _refuse_node(f"duplicate key {shown(key)}; keep one", key_node)
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        if _OTHER_BASE.fullmatch(node.value):
            _refuse_node(f"{plain(node.value)} is in another base in YAML 1.1; write it in decimal, or quote it", node)
        is_int = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)


_RecipeLoader.add_constructor("tag:yaml.org,2002:int", _RecipeLoader.construct_number)
_RecipeLoader.add_constructor("tag:yaml.org,2002:float", _RecipeLoader.construct_number)
_RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _refuse_node(problem: str, node: Any) -> NoReturn:
    """Refuse a YAML node or event where it stands."""
    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)
