"""The command line: `rlcredit train`, `benchmark`, `evaluate`, `analyze`, `report`, `compare`, `prepare-model`, ..."""

from __future__ import annotations

import importlib
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence

from rlcredit import __version__
from rlcredit.errors import EXTRAS, InputError, ProcessLost, RunStopped, missing
from rlcredit.terminal import without_bars_elsewhere

USAGE = """\
rlcredit: token-level credit for RL fine-tuning of language models

  rlcredit train RECIPE [--key value ...]            train a policy; any key of the recipe can be overridden
  rlcredit train RECIPE --dry_run                    check everything but the weights, and print the plan
  rlcredit benchmark RECIPE --strategies S [S ...] --seeds 0..4     train a grid of runs: does credit help?
  rlcredit evaluate --model M --task SET [...]       measure the accuracy of a checkpoint, with intervals
  rlcredit evaluate RUN [...]                        the same with the task, options and sampling of a training run
  rlcredit analyze --model M --task SET [...]        write a page: where the model plans and anchors
  rlcredit analyze RUN [...]                         the same with the prompts of a training run
  rlcredit fidelity --model M --task SET [...]       measure where the outcome is decided, and who finds it
  rlcredit fidelity RUN [...]                        the same with the policy and task of a training run
  rlcredit report RUN [RUN ...]                      write a page of a run's log, or of several runs
  rlcredit report RUN [RUN ...] --watch              serve the page while the runs go on
  rlcredit compare A B                               compare two evaluations, problem by problem
  rlcredit prepare-model SOURCE OUTPUT               make a checkpoint from GGUF (smollm2-135m, or a file)
  rlcredit recipes                                   list the recipes that come with rlcredit
  rlcredit --version                                 print the version

A RECIPE is a YAML file (one of TRL's too), or the name of one that comes with rlcredit, such as
countdown_tiny/coupled_rhythm; --config RECIPE is the same.
rlcredit train, benchmark, evaluate, analyze and fidelity list their keys with --help.
"""
TURN = 20.0  # seconds, for the first process to end and the launcher to see it
RESUMABLE = {
    "train": "--resume_from_checkpoint auto goes on from the newest checkpoint, or starts anew where there is none",
    "evaluate": "the same command continues where it was",
    "fidelity": "the same command continues where it was",
    "benchmark": "the same command continues the grid",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, or with a line on stderr 2 (bad input), 1 (a run had to stop), 130 (interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except InputError as error:
        return _fail(error, 2)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return _fail(missing(package, f"rlcredit {words[0]}"), 2)
    except ProcessLost as error:
        return _fail(error, 1, every_process=True)
    except RunStopped as error:
        return _fail(error, 1)
    except BrokenPipeError:  # `rlcredit compare A B | head` has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        advice = RESUMABLE.get(words[0] if words else "")
        return _fail(f"interrupted; {advice}" if advice else "interrupted", 130)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        raise InputError(f"{command!r} is not a command; write rlcredit {', '.join(COMMANDS)}, or --help")
    COMMANDS[command](rest)
    return 0


# Where the keys of commands are defined.
CREDIT_KEYS = "rlcredit/credit/arguments.py"
MODEL_KEYS = "rlcredit/models/loading.py"
SET_KEYS = (MODEL_KEYS, "rlcredit/evaluation/arguments.py")
EVALUATE_KEYS = (*SET_KEYS, "rlcredit/evaluation/evaluate.py")
ANALYZE_KEYS = (CREDIT_KEYS, MODEL_KEYS, "rlcredit/analysis/analyze.py")
FIDELITY_KEYS = (CREDIT_KEYS, *SET_KEYS, "rlcredit/fidelity/arguments.py")
TRAIN_KEYS = (
    CREDIT_KEYS,
    *(f"rlcredit/trainers/{name}.py" for name in ("run_arguments", "sturdy_config", "grpo_config", "ppo_config")),
    *(f"trl/trainer/{name}.py" for name in ("model_config", "base_config", "grpo_config")),
    "transformers/training_args.py",
    *(f"trl/scripts/utils.py:{name}" for name in ("ScriptArguments", "DatasetMixtureConfig")),
    "rlcredit/tasks/dataset.py:DatasetArguments",
)


def _lazily(
    module: str,
    function: str,
    keys: Sequence[str] = (),
    *,
    run_in_front: bool = False,
    recipe_in_front: bool = False,
    trains: bool = False,
) -> Callable[[list[str]], None]:
    """A command whose module takes seconds to import; it brings `describe()`, its keys for --help.

    Args:
        keys: the files with its keys; unknown ones are refused before the import.
        run_in_front: whether the folder of a run may stand before the flags.
        recipe_in_front: whether a recipe may, in place of --config RECIPE.
        trains: whether keys of other programs that train are answered with what to write here, and a line says what
            begins, before the import.
    """

    def run(rest: list[str]) -> None:
        _settle()
        if recipe_in_front and rest and not rest[0].startswith("-"):
            rest = ["--config", *rest]
        if keys and not _asks_for_help(rest):
            from rlcredit.config.early import refuse_unknown
            from rlcredit.config.elsewhere import ADVICE

            flags = rest[1:] if run_in_front and not rest[0].startswith("-") else rest
            task, task_options = refuse_unknown(flags, keys, ADVICE if trains else {})
            if task_options:
                importlib.import_module("rlcredit.tasks").check_options(task, task_options)
            if trains:
                _say_what_begins(rest)
        home = importlib.import_module(module)
        if _asks_for_help(rest):
            print(USAGE + home.describe(), end="")
        else:
            getattr(home, function)(rest)

    return run


def _say_what_begins(rest: Sequence[str]) -> None:
    """`rlcredit train: countdown_tiny/uniform`, by the first process."""
    from rlcredit.config import peek

    if os.environ.get("RANK", "0") == "0":
        recipe = str(peek(rest, "config") or "no recipe").encode(errors="backslashreplace").decode()
        print(f"rlcredit train: {recipe}", flush=True)


def _prepare_model(rest: list[str]) -> None:
    overwrite = "--overwrite" in rest
    words = [word for word in rest if word != "--overwrite"]
    if _asks_for_help(words):
        print(USAGE, end="")
        return
    if len(words) != 2 or any(word.startswith("-") for word in words):
        raise InputError("rlcredit prepare-model takes a source and a folder: rlcredit prepare-model smollm2-135m OUT")
    _settle()
    from rlcredit.models.gguf import prepare

    source, output = words
    print(f"model: {prepare(source, output, overwrite=overwrite)}")


def _list_recipes(rest: list[str]) -> None:
    from rlcredit.config import list_recipes

    if rest and _asks_for_help(rest):
        print(USAGE, end="")
        return
    if rest:
        raise InputError(f"rlcredit recipes takes no arguments, not {rest[0]!r}")
    for recipe in list_recipes():
        print(f"{recipe.name:40} {recipe.description}")


def _print_version(rest: list[str]) -> None:
    if rest:
        raise InputError(f"rlcredit --version takes no arguments, not {rest[0]!r}")
    print(f"rlcredit {__version__}")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _lazily("rlcredit.trainers.run", "train", TRAIN_KEYS, recipe_in_front=True, trains=True),
    "benchmark": _lazily("rlcredit.benchmark.run", "benchmark", recipe_in_front=True),
    "evaluate": _lazily("rlcredit.evaluation.evaluate", "evaluate", EVALUATE_KEYS, run_in_front=True),
    "analyze": _lazily("rlcredit.analysis.analyze", "analyze", ANALYZE_KEYS, run_in_front=True),
    "fidelity": _lazily("rlcredit.fidelity.command", "measure", FIDELITY_KEYS, run_in_front=True),
    "report": _lazily("rlcredit.runs.report", "report"),
    "compare": _lazily("rlcredit.evaluation.compare", "compare"),
    "prepare-model": _prepare_model,
    "recipes": _list_recipes,
    "--version": _print_version,
}


def _asks_for_help(words: list[str]) -> bool:
    return not words or not {"-h", "--help"}.isdisjoint(words)


def _settle() -> None:
    """Make code in this folder importable, as `python script.py` does; leave out warnings meant for developers."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    without_bars_elsewhere()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "OMP_NUM_THREADS" not in os.environ:  # read when torch is loaded; see rlcredit.models.threads
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true but no accelerator is found")


def _fail(error: Exception | str, code: int, *, every_process: bool = False) -> int:
    if os.environ.get("RANK", "0") != "0" and not every_process:
        # The first process prints the same line: by the end of this wait, the launcher has ended this process.
        time.sleep(TURN)
    if isinstance(error, RunStopped) and error.details:
        print(error.details, file=sys.stderr)
    lines = str(error).split("\n") if isinstance(error, InputError) and error.lines else [str(error)]
    # a word that the user gave can be of any length, and hold characters that no terminal can show
    shown = [re.sub(r"\S{300,}", lambda word: f"{word[0][:80]}...", " ".join(line.split())) for line in lines]
    text = "\n  ".join([f"rlcredit: {shown[0]}", *shown[1:]])
    print(text.encode(errors="backslashreplace").decode(), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
