"""Objects of the user's, which a recipe names as package.module:object."""

from __future__ import annotations

import difflib
import importlib
import traceback
from typing import Any

from rlcredit.config.messages import shown
from rlcredit.errors import InputError


def import_named(key: str, name: Any, what: str) -> Any:
    """The object that `package.module:object` names.

    Args:
        key: the setting, for messages.
        name: its value.
        what: what it should name, for messages: "function", for instance.

    Raises: InputError if it is no such name, there is no such module or object, or the module cannot be imported.
    """
    module, _, attribute = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not module or not attribute or module.startswith("."):
        raise InputError(f"{key}: {shown(name)} names no object; write package.module:{what}")
    begins = f"{key}: {name!r} cannot be imported"
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):  # one that the module itself imports
            raise InputError(f"{begins}: it {raised(error, module)}") from error
        raise InputError(
            f"{begins}: there is no module {error.name}; write package.module:{what}, importable from here"
        ) from error
    except Exception as error:
        raise InputError(f"{begins}: it {raised(error, module)}") from error
    if not hasattr(found, attribute):
        near = difflib.get_close_matches(attribute, vars(found), 1)
        hint = f"did you mean {near[0]}?" if near else f"write package.module:{what}"
        raise InputError(f"{begins}: {module} has no {attribute}; {hint}")
    return getattr(found, attribute)


def raised(error: Exception, module: str | None = None) -> str:
    """What a user's code raised, and where in that code: a text of one line.

    Args:
        error: caught in the function that called the user's code.
        module: one of the user's; None: that of the function that was called.
    """
    name = type(error).__name__
    text = f"raised {name}: {' '.join(str(error).split())}" if str(error) else f"raised {name}"
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)][1:]
    if not frames:
        return text
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in frames]
    package = packages[0] if module is None else module.partition(".")[0]
    own = [place for place, its in zip(frames, packages, strict=True) if its == package]
    frame, line = (own or frames)[-1]
    return f"{text} ({frame.f_code.co_filename}, line {line})"
