"""Write docs/api.md from the docstrings of what `import rlcredit` offers.

python scripts/write_api.py docs/api.md
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path

import rlcredit

OPENING = """# The API

What `from rlcredit import ...` offers, made from the docstrings by `python scripts/write_api.py docs/api.md`. Shapes
are named by suffixes: B rows, N positions of prompt and response, T tokens of a response, L layers, H heads.
"""


def page() -> str:
    """The page: one section a name, in the order of the alphabet."""
    return (
        "\n\n".join([OPENING.strip(), *(_section(name, getattr(rlcredit, name)) for name in rlcredit.__all__)]) + "\n"
    )


def _section(name: str, thing: object) -> str:
    if not callable(thing):
        return f"## {name}\n\n{', '.join(f'`{entry}`' for entry in thing)}"  # type: ignore[attr-defined]
    told = inspect.getdoc(thing) or ""
    fields = _fields(thing) if dataclasses.is_dataclass(thing) else ""
    call = "" if fields else f"```python\n{name}{_signature(thing)}\n```\n\n"
    return f"## {name}\n\n{call}```text\n{told}\n```{fields}"


def _signature(thing: object) -> str:
    try:
        signature = inspect.signature(thing)  # type: ignore[arg-type]
    except ValueError:
        return "(...)"
    plain = [one.replace(annotation=one.empty, default=_shown(one)) for one in signature.parameters.values()]
    written = str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))
    return written.replace("Ellipsis", "...")


def _shown(parameter: inspect.Parameter) -> object:
    """The default, where it can be read: functions cannot."""
    return ... if inspect.isroutine(parameter.default) else parameter.default


def _fields(thing: type) -> str:
    """The fields with a help text of their own: those of rlcredit, not TRL's."""
    rows = [
        f"| `{field.name}` | `{_default(field)}` | {' '.join(str(field.metadata['help']).split())} |"
        for field in dataclasses.fields(thing)
        if "help" in field.metadata and field.name in _own(thing)
    ]
    return "\n\n| key | default | |\n|---|---|---|\n" + "\n".join(rows) if rows else ""


def _own(thing: type) -> set[str]:
    mine = [base for base in thing.__mro__ if base.__module__.startswith("rlcredit")]
    return {name for base in mine for name in vars(base).get("__annotations__", {})}


def _default(field: dataclasses.Field) -> object:  # type: ignore[type-arg]
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else "needed"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("write_api.py takes the file to write: python scripts/write_api.py docs/api.md")
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
