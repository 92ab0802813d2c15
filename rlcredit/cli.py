"""The command line: `rlcredit train` and `rlcredit recipes`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from rlcredit.errors import InputError, RunStopped

USAGE = """\
rlcredit: token-level credit for RL fine-tuning of language models

  rlcredit train --config RECIPE [--key value ...]   train a policy; any key of the recipe can be overridden
  rlcredit recipes                                   list the recipes that come with rlcredit

A RECIPE is a YAML file, or the name of one that comes with rlcredit, such as countdown_tiny/coupled_rhythm.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, or with one line on stderr 2 (bad input), 1 (a run had to stop), 130 (interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except InputError as error:
        return _fail(error, 2)
    except RunStopped as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted; --resume_from_checkpoint latest goes on from the newest checkpoint", 130)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    command, rest = words[0], words[1:]
    if command == "recipes":
        return _list_recipes(rest)
    if command != "train":
        raise InputError(f"{command!r} is no command; write rlcredit train or rlcredit recipes")
    _settle()
    from rlcredit.trainers.run import describe, train  # takes seconds to import

    if not rest or rest[0] in ("-h", "--help"):
        print(USAGE + describe(), end="")
    else:
        train(rest)
    return 0


def _list_recipes(rest: list[str]) -> int:
    from rlcredit.recipes import list_recipes

    if rest:
        raise InputError(f"rlcredit recipes takes no arguments, not {rest[0]!r}")
    for recipe in list_recipes():
        print(f"{recipe.name:40} {recipe.description}")
    return 0


def _settle() -> None:
    """Make code in this folder importable, as `python script.py` does; leave out warnings meant for developers."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true but no accelerator is found")


def _fail(error: Exception | str, code: int) -> int:
    if os.environ.get("RANK", "0") == "0":
        print(f"rlcredit: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
