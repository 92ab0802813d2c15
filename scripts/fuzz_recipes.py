"""Give `rlcredit` mutated recipes: each must become a plan, or one line that says what is wrong.

    python scripts/fuzz_recipes.py --count 500 --seed 0     # a table, and exit code 1 if anything else came out
    python scripts/fuzz_recipes.py --seed 0 --only 137      # one mutant again, with what it said

A mutant is a shipped recipe with one thing wrong in the file or on the command line. It goes through the real command
line (`rlcredit train --config mutant.yaml --dry_run`) in a forked process. Two outcomes are allowed:

planned   exit code 0, and the plan was printed: what the mutant says can be done
refused   exit code 2, and one line on stderr (or one for each unknown key) that names the key, its line or the file

Everything else is a violation: a traceback, another exit code, a hang, a line that names something else, a file made
by a YAML tag (its canary), a file opened for writing, a process or a connection outside the mutant's folder. Writes by
compiled libraries are not noticed.

`evaluate` and `analyze` have no dry run. Their mutants name a model that is not there, which is refused last: that
refusal counts as planned.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import socket
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FILE, CANARY, NO_MODEL = "mutant.yaml", "canary", "no/such/model"
REFUSAL = r"rlcredit: ([^\n]+|\d+ keys are unknown:(\n  [^\n]+)+)\n"
ROWS = 600  # of training data: more than the prompts of any recipe's rollout
MEMORY = 6 << 30  # bytes that a mutant may take beyond what was there at the fork
WARNINGS = ("`fsdp` as a string is deprecated",)  # of libraries, which may stand before a refusal
LONGEST = 1_200  # characters of a refusal
OUTCOMES = ("planned", "refused", "violation")
COMMANDS = ["train"] * 23 + ["evaluate", "analyze"]


class Raw(str):
    """YAML as it stands in the file."""


WRONG = ["text", "", "3", 3, 2.5, True, None, [1, 2], ["a"], [], {"a": 1}, {}, Raw("2024-01-01"), Raw("off"), "a\nb"]
EXTREME = [0, -1, 1, 0.0, -0.5, 2**31, 2**63, -(2**63), 10**12, 10**400, 1e308, 5e-324, -1e308, "x" * 100_000, "\x00",
           "\ud800", Raw(".nan"), Raw(".inf"), Raw("-.inf"), Raw("1e999"), Raw("0x" + "f" * 400), Raw("1:30"),
           Raw("[" * 15 + "]" * 15), Raw("[" * 9_000), Raw("{a: " * 15 + "1" + "}" * 15)]  # fmt: skip
MISSING = [NO_MODEL, "no/such/file.jsonl", "empty", "empty.jsonl", "torn.jsonl", "binary.jsonl", "binary.parquet",
           "folder.jsonl", "a\x00b", "x" * 5_000, ".", "/dev/null"]  # fmt: skip
PATHS = ["model_name_or_path", "critic_model_name_or_path", "resume_from_checkpoint", "output_dir",
         "accelerator_config", "deepspeed", "fsdp_config", "task_options.train", "task_options.test"]  # fmt: skip
TAGS = [
    f"!!python/object/apply:os.system ['touch {CANARY}']",
    f"!!python/object/apply:subprocess.check_output [[touch, {CANARY}]]",
    f"!!python/object/new:os.system ['touch {CANARY}']",
    f"!!python/object/apply:builtins.open [{CANARY}, w]",
    f"!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {CANARY}']",
    *("!!python/name:os.system", "!!python/module:os", "!!python/tuple [1]", "!!binary aGk=", "!!set {a, b}"),
    *("!!timestamp 2024-01-01", "!!omap [a: 1]", "!!str 3", "!!float 3", "! 3", "!mine 3"),
]
LAUGHS = "laughs: [&l0 [x, x], " + ", ".join(f"&l{n} [{f'*l{n - 1}, ' * 9}]" for n in range(1, 10)) + "]\n"
ANCHORS = [Raw("&a 3"), Raw("*nowhere"), Raw("&a [*a]"), Raw("{<<: *a}"), Raw("[&a {b: 1}, *a]")]
NO_RECIPES = ["", "# nothing\n", "- a\n- b\n", "word\n", "3\n", "null\n", "[]\n", '"text"\n', "---\n---\n", "? \n"]


class Base(NamedTuple):
    """A recipe that passes: its values, and every other key that it could have."""

    command: str
    values: dict[str, Any]
    others: list[str]


class Mutant(NamedTuple):
    """What is given to the command line.

    Attributes:
        base: the recipe.
        file: its mutated text, or what puts something else in its place.
        flags: behind `--config`.
        names: a refusal has to name one of these.
    """

    base: Base
    file: bytes | Callable[[Path], object]
    flags: list[str]
    names: list[str]


def bases(folder: Path) -> dict[str, list[Base]]:
    """The shipped recipes by command, with local models and data in `folder`."""
    import yaml

    from rlcredit.analysis.analyze import AnalysisCredit, AnalyzeArguments
    from rlcredit.config import list_recipes, model_path
    from rlcredit.config.fields import options_of
    from rlcredit.evaluation.evaluate import EvaluateArguments
    from rlcredit.trainers.prepare import ALGORITHMS, ModelConfig
    from rlcredit.trainers.run_arguments import RunArguments
    from tests.policies import POLICIES, local_data, save_policy

    trained = []
    for recipe in list_recipes():
        values = yaml.safe_load(recipe.path.read_text())
        if values["task"] == "zebra" and importlib.util.find_spec("reasoning_gym") is None:
            continue
        name = values["model_name_or_path"]
        if model_path(name) == name:  # none of the shipped policies
            values["model_name_or_path"] = save_policy(name if name in POLICIES else "Qwen/Qwen3-0.6B", folder / name)
        options: dict[str, Any] = {"num_train": ROWS, "num_test": 4}
        if values["task"] in ("math", "qa"):
            (folder / values["task"]).mkdir(exist_ok=True)
            options = local_data(values["task"], folder / values["task"], ROWS)
        if "hold_out" in values["task_options"]:
            options = {"train": options["train"], "hold_out": 6}
        values["task_options"] |= options
        config = ALGORITHMS[values.get("algorithm", "grpo")]
        trained.append(Base("train", values, [*options_of((RunArguments, ModelConfig, config))]))
    start = {"model": NO_MODEL, "task": "countdown", "task_options": {"num_test": 4}, "max_new_tokens": 8}
    evaluate = start | {"samples": 2, "temperature": 1.0, "top_p": 0.9, "batch_size": 4, "limit": 2, "output": "out"}
    analyze = start | {"samples": 2, "layers": [1, 2], "credit_fai_horizon": [0, -1], "perturbed": 1, "output": "out"}
    return {
        "train": trained,
        "evaluate": [Base("evaluate", evaluate, [*options_of((EvaluateArguments,))])],
        "analyze": [Base("analyze", analyze, [*options_of((AnalyzeArguments, AnalysisCredit))])],
    }


def bad_files(folder: Path) -> None:
    """What MISSING names and is there, in a mutant's folder."""
    for name in ("empty", "folder.jsonl"):
        (folder / name).mkdir()
    (folder / "empty.jsonl").touch()
    (folder / "torn.jsonl").write_text('{"question": "a", "answer": "4"}\n{"question": "b", "ans')
    for name in ("binary.jsonl", "binary.parquet"):
        (folder / name).write_bytes(bytes(range(256)))


def yaml_of(values: Any) -> str:
    if isinstance(values, Raw):
        return values
    if isinstance(values, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {yaml_of(value)}" for key, value in values.items()) + "}"
    return json.dumps(values)


def text_of(values: dict[str, Any]) -> str:
    return "".join(f"{key}: {yaml_of(value)}\n" for key, value in values.items())


def some_key(base: Base, rng: random.Random) -> str:
    inside = [f"task_options.{name}" for name in base.values["task_options"]]
    return rng.choice(rng.choices([[*base.values], inside, base.others], [5, 2, 3])[0])


def with_value(base: Base, key: str, value: Any, rng: random.Random, *names: str, flags: bool = True) -> Mutant:
    """The recipe with another value of one key, now and then given as a flag."""
    name, _, inside = key.partition(".")
    if inside in ("train", "test") and value is None:
        names = ("on the hub", *names)  # the task's own set, which cannot be reached
    names += {"task_options": ("Hub",), "task_options.num_train": ("training set",)}.get(key, ())
    if flags and rng.random() < 1 / 3:
        word = value if isinstance(value, str) else json.dumps(value)
        return Mutant(base, text_of(base.values).encode(), [f"--{key}={word}"], [key, *names])
    values = base.values | {name: base.values.get(name, {}) | {inside: value} if inside else value}
    line = f"{FILE}:{[*values].index(name) + 1}"
    return Mutant(base, text_of(values).encode("utf-8", "surrogatepass"), [], [inside or name, line, *names])


def unchanged(base: Base, rng: random.Random) -> Mutant:
    return Mutant(base, text_of(base.values).encode(), [], [])


def wrong_type(base: Base, rng: random.Random) -> Mutant:
    return with_value(base, some_key(base, rng), rng.choice(WRONG), rng)


def extreme(base: Base, rng: random.Random) -> Mutant:
    return with_value(base, some_key(base, rng), rng.choice(EXTREME), rng)


def swapped(base: Base, rng: random.Random) -> Mutant:
    first, second = rng.sample([*base.values], 2)
    values = base.values | {first: base.values[second], second: base.values[first]}
    return Mutant(base, text_of(values).encode(), [], [first, second])


def misspelt(base: Base, rng: random.Random) -> Mutant:
    name, dot, inside = some_key(base, rng).partition(".")
    word, place = inside or name, rng.randrange(len(inside or name) - 1)
    typo = rng.choice([word[:place] + word[place + 1 :], word[:place] + "x" + word[place:], word + "s", word.upper()])
    if typo in base.others or (inside and typo in base.values[name]):
        typo += "_"
    return with_value(base, f"{name}.{typo}" if dot else typo, 1, rng)


def missing_file(base: Base, rng: random.Random) -> Mutant:
    keys = [key for key in PATHS if key.partition(".")[0] in base.others] if base.command == "train" else ["model"]
    value = rng.choice(MISSING)
    said = [value] if value.isprintable() and len(value) < 80 else ["there is no such file", "File name too long"]
    return with_value(base, rng.choice(keys), value, rng, *said)


def tag(base: Base, rng: random.Random) -> Mutant:
    return with_value(base, some_key(base, rng), Raw(rng.choice(TAGS)), rng, flags=False)


def anchor(base: Base, rng: random.Random) -> Mutant:
    if rng.random() < 0.2:
        return Mutant(base, (LAUGHS + text_of(base.values)).encode(), [], [f"{FILE}:1"])
    return with_value(base, some_key(base, rng), rng.choice(ANCHORS), rng, flags=False)


def duplicate(base: Base, rng: random.Random) -> Mutant:
    key = rng.choice([*base.values])
    return Mutant(base, f"{text_of(base.values)}{key}: {yaml_of(base.values[key])}\n".encode(), [], [key])


def no_mapping(base: Base, rng: random.Random) -> Mutant:
    text = text_of(base.values)
    several = [f"{text}---\n{text}", f"{text}...\n{text}", f"- {text}", f"%TAG ! tag:x,2000:\n--- !a\n{text}"]
    return Mutant(base, rng.choice(NO_RECIPES + several).encode(), [], [FILE])


def odd_bytes(base: Base, rng: random.Random) -> Mutant:
    data = text_of(base.values).encode()
    place = rng.randrange(len(data))
    inside = [data[:place] + odd + data[place:] for odd in (b"\x00", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\x1b")]
    whole = [rng.randbytes(rng.randrange(1, 4096)), gzip.compress(data, mtime=0), b"\x89PNG\r\n\x1a\n" + data]
    recoded = [data.decode().encode(name) for name in ("utf-16", "utf-16-le", "utf-32")]
    return Mutant(base, rng.choice(inside + whole + recoded), [], [FILE])


def long_line(base: Base, rng: random.Random) -> Mutant:
    line = rng.choice(["run_name: {}", "# {}", "{}: 1", "[{}", "{}"]).format("x" * 10_000_000)
    return Mutant(base, f"{text_of(base.values)}{line}\n".encode(), [], [FILE])


def no_file(base: Base, rng: random.Random) -> Mutant:
    def bind(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as unix_socket:
            unix_socket.bind(path.name)  # the cwd is the mutant's folder; a socket's whole path may be too long

    places: list[Callable[[Path], object]] = [
        *(Path.mkdir, os.mkfifo, bind, lambda path: None),
        *(lambda path, to=to: path.symlink_to(to) for to in ("/dev/zero", "/dev/null", "/dev/tty", FILE, "nowhere")),
    ]
    return Mutant(base, rng.choice(places), [], [FILE])


def truncated(base: Base, rng: random.Random) -> Mutant:
    data = text_of(base.values).encode()
    names = [FILE, "model", "model_name_or_path", "task", *base.values]
    return Mutant(base, data[: rng.randrange(len(data))], [], names)


def tab(base: Base, rng: random.Random) -> Mutant:
    lines = text_of(base.values).splitlines()
    place = rng.randrange(len(lines))
    odd = rng.choice(["\t{}", "{}\t", "{}\n\tx: 1", "{}\n  \tx: 1"]).format(lines[place])
    lines[place] = rng.choice([odd, lines[place].replace(": ", ":\t", 1)])
    return Mutant(base, "\n".join(lines).encode(), [], [f"{FILE}:{place + n}" for n in (1, 2)])


KINDS = [unchanged, wrong_type, extreme, swapped, misspelt, missing_file, tag, anchor, duplicate, no_mapping,
         odd_bytes, long_line, no_file, truncated, tab, wrong_type, extreme, extreme]  # fmt: skip


def mutant_of(number: int, seed: int, recipes: dict[str, list[Base]]) -> tuple[str, Mutant]:
    """A mutant's kind and the mutant: the same for the same seed and number."""
    rng = random.Random(f"{seed} {number}")
    kind = KINDS[number % len(KINDS)]
    return kind.__name__, kind(rng.choice(recipes[rng.choice(COMMANDS)]), rng)


def run(mutant: Mutant, folder: Path, timeout: float) -> tuple[str, str]:
    """What came of a mutant, and why where it is a violation; its words are left in `folder`."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(mutant, folder))
    process.start()
    process.join(timeout)
    if hung := process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join()
    code, said = process.exitcode, (folder / "stdout").read_text(errors="replace")
    line = (folder / "stderr").read_text(errors="replace")
    outside = (folder / "outside").read_text() if (folder / "outside").exists() else ""
    if hung:
        return "violation", f"hung for {timeout:g} s"
    if outside or (folder / CANARY).exists():
        return "violation", f"made a canary or left its folder: {outside}"
    if mutant.base.command == "train" and code == 0 and said.endswith("checked; nothing was trained\n"):
        return "planned", ""
    line = "".join(part for part in line.splitlines(keepends=True) if not part.startswith(WARNINGS))
    if code != 2 or len(line) > LONGEST or not re.fullmatch(REFUSAL, line):
        return "violation", f"exit code {code}, and {len(line.splitlines())} lines on stderr: {line.strip()[-200:]}"
    if mutant.base.command != "train" and f"model: '{NO_MODEL}'" in line:
        return "planned", ""
    if not any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", line) for name in mutant.names):
        return "violation", f"does not name {' or '.join(mutant.names)[:90]}: {line.strip()[:300]}"
    return "refused", ""


def _child(mutant: Mutant, folder: Path) -> None:
    os.setsid()
    os.chdir(folder)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600), stream)
    bad_files(folder)
    mutant.file(folder / FILE) if callable(mutant.file) else (folder / FILE).write_bytes(mutant.file)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    from rlcredit.cli import main

    _watch(folder)
    words = [mutant.base.command, "--config", FILE, *mutant.flags]
    try:
        code = main([*words, "--dry_run"] if mutant.base.command == "train" else words)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _watch(folder: Path) -> None:
    """Note what is opened for writing outside the folder, and every process and connection."""
    log = os.open(folder / "outside", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    allowed = (str(folder.parent), "/dev/null")
    started = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "pty.spawn")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes and isinstance(arguments[0], str | bytes | os.PathLike)) or event in ("os.mkdir", "os.remove"):
            if not os.path.abspath(os.fsdecode(arguments[0])).startswith(allowed):
                os.write(log, f"{event} {arguments[0]!r:.200}\n".encode())
        elif event in started:
            os.write(log, f"{event} {arguments!r:.200}\n".encode())

    sys.addaudithook(hook)


def prepare(folder: Path) -> None:
    """Whatever libraries keep goes into the folder, nothing asks the hub, and what is slow to import is here."""
    for name in ("HOME", "HF_HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
        os.environ[name] = str(folder)
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "TOKENIZERS_PARALLELISM": "false"}
    sys.dont_write_bytecode = True
    import torch

    torch.set_num_threads(1)  # a fork has only the thread that made it
    models = (f"transformers.models.{name}.modeling_{name}" for name in ("llama", "qwen3"))
    for module in (*models, "rlcredit.trainers.build", "rlcredit.evaluation.evaluate", "rlcredit.analysis.analyze"):
        importlib.import_module(module)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--count", type=int, default=500, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=60, help="seconds a mutant may take")
    parser.add_argument("--only", type=int, help="run this mutant alone, and show what it is and says")
    args = parser.parse_args(argv)
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        root = Path(scratch).resolve()
        prepare(root)
        recipes = bases(root)
        for number in range(args.count) if args.only is None else [args.only]:
            kind, mutant = mutant_of(number, args.seed, recipes)
            (folder := root / str(number)).mkdir()
            outcome, why = run(mutant, folder, args.timeout)
            if kind == "unchanged" and outcome != "planned":
                outcome, why = "violation", f"an unchanged recipe was not planned: {why}"
            counts[kind, outcome] += 1
            counts["all", outcome] += 1
            if why:
                print(f"{number} {kind}: {why}\n    python scripts/fuzz_recipes.py --seed {args.seed} --only {number}")
            if args.only is not None:
                file = mutant.file if callable(mutant.file) else mutant.file.decode(errors="replace")[:3000]
                print(f"{kind}: {outcome}\n{file}\nrlcredit {mutant.base.command} {' '.join(mutant.flags)[:500]}")
                print((folder / "stdout").read_text() + (folder / "stderr").read_text())
    print(f"{'kind':14}" + "".join(f"{outcome:>11}" for outcome in OUTCOMES))
    for kind in dict.fromkeys([*(kind.__name__ for kind in KINDS), "all"]):
        print(f"{kind:14}" + "".join(f"{counts[kind, outcome]:11}" for outcome in OUTCOMES))
    return int(counts["all", "violation"] > 0)


if __name__ == "__main__":
    sys.exit(main())
