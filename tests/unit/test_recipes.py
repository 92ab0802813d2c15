"""The strict reader: what it takes, what it refuses, and that TRL's own classes come out as from its parser."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import GRPOConfig, ModelConfig, TrlParser

from rlcredit.config import find_recipe, given_values, list_recipes, parse, peek, recipes_root
from rlcredit.config import shipped as shipped_recipes
from rlcredit.errors import InputError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Made:
    """One field of each kind that a run's dataclasses have."""

    steps: int = 1
    rate: float = 0.5
    name: str = "plain"
    fast: bool = False
    careful: bool = True
    maybe: bool | None = None
    limit: int | None = 7
    share: float | None = None
    title: str | None = None
    layers: str | list[int] = "middle"
    horizon: list[int] = field(default_factory=lambda: [10, 100])
    weights: list[float] | None = None
    targets: list[str] | None = None
    report: str | list[str] | None = None
    options: dict | str | None = None
    switches: dict[str, bool] | None = None
    side: Literal["left", "right"] = "left"
    colour: Colour = Colour.RED
    hue: Colour | str = "red"
    select: str = field(default="top", metadata={"choices": ["top", "bottom"]})
    steps_or_share: float | int = 1
    shards: str | None = field(default=None, metadata={"nargs": "?", "const": True})
    hidden: int = field(default=3, init=False)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps: {self.steps} is negative;\n  write 1 or more")
        if self.name == "type":
            raise TypeError("name must not be a type")


@dataclass
class Needed:
    must: int


def write(folder: Path, text: str | bytes, name: str = "r.yaml") -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


@pytest.fixture
def from_yaml(tmp_path: Path):
    """Parse a recipe of this text, with these flags, into `Made`."""

    def parse_text(text: str | bytes, *flags: str) -> Made:
        (made,) = parse(["--config", write(tmp_path, text), *flags], [Made])
        return made

    return parse_text


def from_flags(*flags: str) -> Made:
    (made,) = parse(list(flags), [Made])
    return made


def refusal(function: Any, *arguments: Any) -> str:
    """The line with which the call is refused; the lines, where several keys are unknown."""
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert is_lines(caught.value)
    return str(caught.value)


def is_lines(error: InputError) -> bool:
    """Whether the error is one line, or a title with the lines that it promises."""
    lines = str(error).split("\n")
    return len(lines) == 1 + len(error.lines) and all(len(line) < 500 for line in lines)


# --- What is taken ---


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("steps: 3", "steps", 3),
        ("steps: 3_000", "steps", 3000),
        ("rate: 2", "rate", 2.0),
        ("rate: 1e-5", "rate", 1e-5),
        ("rate: 1.5E3", "rate", 1500.0),
        ('rate: "1e-5"', "rate", 1e-5),
        ("rate: .inf", "rate", math.inf),
        ("name: plain words", "name", "plain words"),
        ("name: '3'", "name", "3"),
        ("name: ''", "name", ""),
        ("fast: true", "fast", True),
        ("maybe: false", "maybe", False),
        ("maybe: null", "maybe", None),
        ("limit:", "limit", None),
        ("share: 1", "share", 1.0),
        ("layers: middle", "layers", "middle"),
        ("layers: [3, 5, 7]", "layers", [3, 5, 7]),
        ("horizon: [10, -1]", "horizon", [10, -1]),
        ("weights: [1, 0.5, 1e-3]", "weights", [1.0, 0.5, 1e-3]),
        ("targets: [q_proj]", "targets", ["q_proj"]),
        ("report: none", "report", "none"),
        ("report: [wandb]", "report", ["wandb"]),
        ("options: {a: 1, b: {c: [x]}}", "options", {"a": 1, "b": {"c": ["x"]}}),
        ('options: \'{"a": "1"}\'', "options", {"a": "1"}),
        ("options: some/file.json", "options", "some/file.json"),
        ("switches: {a: true}", "switches", {"a": True}),
        ("side: right", "side", "right"),
        ("colour: blue", "colour", Colour.BLUE),
        ("hue: blue", "hue", Colour.BLUE),
        ("select: bottom", "select", "bottom"),
        ("steps_or_share: 2", "steps_or_share", 2),
        ("steps_or_share: 0.5", "steps_or_share", 0.5),
        ("shards: true", "shards", True),
        ("shards: full", "shards", "full"),
    ],
)
def test_yaml_value_is_taken(from_yaml, line: str, name: str, value: Any) -> None:
    made = from_yaml(f"# a comment\n{line}\n")
    assert getattr(made, name) == value and type(getattr(made, name)) is type(value)


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        ("--steps 3", "steps", 3),
        ("--steps=3", "steps", 3),
        ("--rate 1e-5", "rate", 1e-5),
        ("--rate 2", "rate", 2.0),
        ("--rate -0.5", "rate", -0.5),
        ("--rate=-1e-3", "rate", -1e-3),
        ("--rate -inf", "rate", -math.inf),
        ("--name=--dashes", "name", "--dashes"),
        ("--name=a=b", "name", "a=b"),
        ("--name=", "name", ""),
        ("--name -1", "name", "-1"),
        ("--name none", "name", "none"),
        ("--title null", "title", "null"),
        ("--fast", "fast", True),
        ("--fast --steps 2", "fast", True),
        ("--fast true", "fast", True),
        ("--careful False", "careful", False),
        ("--careful=false", "careful", False),
        ("--maybe", "maybe", True),
        ("--maybe none", "maybe", None),
        ("--limit None", "limit", None),
        ("--share null", "share", None),
        ("--layers middle", "layers", "middle"),
        ("--layers 3 5 7", "layers", [3, 5, 7]),
        ("--layers 3", "layers", [3]),
        ("--layers=3", "layers", [3]),
        ("--layers -1", "layers", [-1]),
        ("--horizon 10 -1", "horizon", [10, -1]),
        ("--horizon [10, 20]", "horizon", [10, 20]),
        ("--horizon=[10,-1]", "horizon", [10, -1]),
        ("--weights 1 0.5", "weights", [1.0, 0.5]),
        ("--targets q k", "targets", ["q", "k"]),
        ("--targets q", "targets", ["q"]),
        ("--report none", "report", "none"),
        ("--report wandb", "report", "wandb"),
        ("--report wandb tensorboard", "report", ["wandb", "tensorboard"]),
        ("--options file.json", "options", "file.json"),
        ("--options null", "options", None),
        ("--side right", "side", "right"),
        ("--colour blue", "colour", Colour.BLUE),
        ("--hue blue", "hue", Colour.BLUE),
        ("--select bottom", "select", "bottom"),
        ("--steps_or_share 2", "steps_or_share", 2),
        ("--steps-or-share 0.5", "steps_or_share", 0.5),
        ("--shards", "shards", True),
    ],
)
def test_flag_is_taken(flags: str, name: str, value: Any) -> None:
    made = from_flags(*flags.split(" "))
    assert getattr(made, name) == value and type(getattr(made, name)) is type(value)


def test_mappings_are_json_on_the_command_line() -> None:
    made = from_flags("--options", '{"a": {"b": [1, "1"]}}', "--switches", '{"x": true}')
    assert made.options == {"a": {"b": [1, "1"]}} and made.switches == {"x": True}


@pytest.mark.parametrize("config", [["--config", "{}"], ["--config={}"]])
@pytest.mark.parametrize("first", [True, False])
def test_command_line_wins_wherever_the_recipe_is_named(tmp_path: Path, config: list[str], first: bool) -> None:
    config = [word.format(write(tmp_path, "steps: 5\nname: recipe\nlayers: [1]\n")) for word in config]
    flags = ["--steps", "6", "--layers", "all"]
    (made,) = parse([*config, *flags] if first else [*flags, *config], [Made])
    assert (made.steps, made.name, made.layers) == (6, "recipe", "all")


def test_no_recipe_gives_the_defaults() -> None:
    assert from_flags() == Made()
    assert from_flags().horizon is not from_flags().horizon


def test_several_dataclasses_in_their_order() -> None:
    needed, made = parse(["--must", "2", "--steps", "3"], [Needed, Made])
    assert (needed.must, made.steps) == (2, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "steps": st.integers(0, 10**9),
            "rate": st.floats(allow_nan=False),
            "name": st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30),
            "maybe": st.none() | st.booleans(),
            "layers": st.sampled_from(["middle", "all"]) | st.lists(st.integers(-1, 99)),
            "options": st.dictionaries(st.text("abc", min_size=1), st.integers() | st.text("xyz") | st.none()),
        },
    )
)
def test_whatever_yaml_writes_comes_back(tmp_path: Path, values: dict[str, Any]) -> None:
    if values.get("name") == "type":
        return
    (made,) = parse(["--config", write(tmp_path, "steps: 0\n" if not values else yaml.safe_dump(values))], [Made])
    assert {name: getattr(made, name) for name in values} == values


# --- What is refused: values ---


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("steps: ten", ["r.yaml:2: steps: expected int, got 'ten' (str)"]),
        ('steps: "10"', ["expected int", "without quotes"]),
        ("steps: 10.0", ["expected int, got 10.0 (float)"]),
        ("steps: 1e3", ["expected int"]),
        ("steps: true", ["expected int, got True (bool)"]),
        ("steps:", ["expected int, got None"]),
        ("rate: true", ["rate: expected float, got True (bool)"]),
        ("rate: fast", ["expected float, got 'fast' (str)"]),
        ("rate: .nan", ["expected float, got nan"]),
        ("rate: [1]", ["expected float, got [1] (list)"]),
        (f"rate: {10**400}", ["rate: expected float"]),
        ("name: [a]", ["name: expected str, got ['a'] (list)"]),
        ("name: 3", ["expected str, got 3 (int)"]),
        ("name: off", ["expected str, got False (bool)", "quote it"]),
        ("name: 2024-01-01", ["expected str", "(date)"]),
        ("name: null", ["expected str, got None"]),
        ("fast: 1", ["fast: expected bool, got 1 (int)"]),
        ("fast: 'yes'", ["expected bool, got 'yes' (str)", "true or false, unquoted"]),
        ("limit: x", ["expected int or null"]),
        ("layers: 3", ["layers: expected str or list of int, got 3 (int)"]),
        ("layers: [a]", ["expected str or list of int"]),
        ("layers: [1, true]", ["expected str or list of int"]),
        ("horizon: 10", ["horizon: expected list of int"]),
        ("horizon: '10 -1'", ["horizon: expected list of int"]),
        ("horizon: {a: 1}", ["expected list of int"]),
        ("options: [1]", ["options: expected mapping or str or null"]),
        ("options: '{broken'", ["options:", "is not JSON"]),
        ("switches: {a: 1}", ["switches: expected mapping or null"]),
        ("side: lft", ["side: expected one of left, right", "did you mean left?"]),
        ("colour: bleu", ["colour: expected one of red, blue", "did you mean blue?"]),
        ("hue: green", ["hue: expected one of red, blue"]),
        ("select: botom", ["select: expected one of top, bottom", "did you mean bottom?"]),
        ("shards: 1", ["shards: expected str or null"]),
        ("steps: -1", ["r.yaml:2: steps: -1 is negative; write 1 or more"]),
        ("name: type", ["r.yaml:2: name: name must not be a type"]),
    ],
)
def test_wrong_value_names_key_value_and_type(from_yaml, line: str, parts: list[str]) -> None:
    message = refusal(from_yaml, f"# a comment\n{line}\n")
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--steps", "ten"], ["--steps: expected int, got 'ten'"]),
        (["--steps", "1.0"], ["--steps: expected int"]),
        (["--steps", ""], ["--steps: expected int, got ''"]),
        (["--steps", "1", "2"], ["--steps: expected int, got ['1', '2']"]),
        (["--steps", "9" * 5000], ["--steps: expected int"]),
        (["--steps"], ["--steps: a value is missing; expected int"]),
        (["--rate", "nan"], ["--rate: expected float"]),
        (["--rate", "1_0"], ["--rate: expected float"]),
        (["--fast", "maybe"], ["--fast: expected bool"]),
        (["--limit", "few"], ["--limit: expected int or null"]),
        (["--horizon", "[1, x]"], ["--horizon: expected list of int"]),
        (["--horizon", "1", "x"], ["--horizon: expected list of int"]),
        (["--layers", "3", "top"], ["--layers: expected str or list of int"]),
        (["--options", "{a: 1}"], ["--options: '{a: 1}' is not JSON", "write --options"]),
        (["--options", '{"a": 1, "a": 2}'], ["duplicate key 'a'"]),
        (["--options", '{"a":' * 5000], ["--options:", "not JSON"]),
        (["--switches", '{"a": 1}'], ["--switches: expected mapping or null"]),
        (["--side", "rigth"], ["did you mean right?"]),
        (["--hue", "green"], ["--hue: expected one of red, blue"]),
        (["--select", "tip"], ["--select: expected one of top, bottom", "did you mean top?"]),
        (["--steps", "-4"], ["--steps: -4 is negative; write 1 or more"]),
    ],
)
def test_wrong_flag_value_is_refused(flags: list[str], parts: list[str]) -> None:
    message = refusal(from_flags, *flags)
    assert all(part in message for part in parts), message


# --- What is refused: keys and flags ---


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("steps: 1\nstep: 2\n", "r.yaml:2: unknown key 'step'; did you mean steps?"),
        ("carefull: true\n", "did you mean careful?"),
        ("steps-or-share: 1\n", "did you mean steps_or_share?"),
        ("env: {A: b}\n", "unknown key 'env'"),
        ("hidden: 4\n", "unknown key 'hidden'"),
        ("config: other.yaml\n", "unknown key 'config'"),
        ("steps: 1\nname: a\nsteps: 2\n", "r.yaml:3: duplicate key 'steps'"),
        ("options:\n  a: 1\n  a: 2\n", "r.yaml:3: duplicate key 'a'"),
        ("1: a\n", "r.yaml:1: the key '1' is not a string"),
        ("on: a\n", "the key 'on' is not a string; quote it"),
        ("? [a]\n: b\n", "is not a string"),
        ("<<: {steps: 1}\n", "the key '<<' is not a string"),
        ("options: {1: a}\n", "the key '1' is not a string"),
    ],
)
def test_wrong_key_is_refused(from_yaml, text: str, part: str) -> None:
    assert part in refusal(from_yaml, text)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--step", "2"], "--step: unknown flag; did you mean --steps?"),
        (["--steps_or", "2"], "did you mean --steps_or_share?"),
        (["--horizn", "2"], "did you mean --horizon?"),
        (["--conf", "x"], "did you mean --config?"),
        (["--no_careful"], "write --careful false"),
        (["--zzz=1"], "--zzz: unknown flag"),
        (["--hidden", "1"], "--hidden: unknown flag"),
        (["--"], "unknown flag"),
        (["stray"], "'stray': belongs to no flag"),
        (["--steps=1", "2"], "'2': belongs to no flag"),
        (["-s", "2"], "'-s': belongs to no flag"),
        (["--name", "-x"], "'-x': belongs to no flag"),
        (["--steps", "1", "--steps", "2"], "--steps: given twice"),
        (["--steps-or-share", "1", "--steps_or_share=2"], "--steps_or_share: given twice"),
        (["--config", "a.yaml", "--config=b.yaml"], "--config: given twice"),
        (["--config"], "--config: takes one recipe"),
        (["--config="], "--config: takes one recipe"),
        (["--config", "a", "b"], "--config: takes one recipe"),
    ],
)
def test_wrong_flag_is_refused(flags: list[str], part: str) -> None:
    assert part in refusal(from_flags, *flags)


def test_missing_value_is_named() -> None:
    assert "must is missing; write must: VALUE, or --must VALUE" in refusal(parse, [], [Needed])


def test_shared_or_reserved_field_is_a_mistake_in_the_program() -> None:
    @dataclass
    class Twin:
        steps: int = 0

    @dataclass
    class Reserved:
        config: str = ""

    with pytest.raises(TypeError, match=r"Twin\.steps"):
        parse([], [Made, Twin])
    with pytest.raises(TypeError, match=r"Reserved\.config"):
        parse([], [Reserved])


# --- What is refused: files ---


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "r.yaml: is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "is not a list of `key: value` lines"),
        ("word", "is not a list of"),
        ("steps: 1\n---\nsteps: 2\n", "document"),
        ("name: !!python/object/apply:os.system [ls]\n", "r.yaml:1: tags"),
        ("name: !!str 3\n", "tags"),
        ("name: ! 3\n", "tags"),
        ("a: &x [1]\nb: *x\n", "anchors"),
        ("name: *x\n", "aliases"),
        ("options: " + "[" * 5000, "nested deeper than 20 levels"),
        ("options: " + "{a: " * 25 + "1" + "}" * 25, "nested deeper"),
        ("steps: [1\nname: a\n", "r.yaml:2"),
        ("steps: 1\n\tname: a\n", "r.yaml:2"),
        ("name: @x\n", "r.yaml:1"),
        (b"name: \xff\xfe\n", "is not UTF-8 text (byte 6)"),
        (b"name: a\x00b\n", "r.yaml: unacceptable character"),
        (b"\x7fELF\x00\x01", "r.yaml"),
        ("steps: 010\n", "another base"),
        ("steps: 1:30\n", "another base"),
        ("rate: 0x" + "f" * 9000 + "\n", "another base"),
        ("rate: 1:30.5\n", "another base"),
        ("steps: " + "9" * 5000 + "\n", "r.yaml"),
        ("name: " + "a" * 1_000_000 + "\n", "is larger than 1,000,000 bytes"),
    ],
)
def test_wrong_file_is_one_line(from_yaml, text: str | bytes, part: str) -> None:
    assert part in refusal(from_yaml, text)


def test_aliases_cannot_grow(from_yaml) -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
    assert "anchors" in refusal(from_yaml, bomb)


def test_byte_order_mark_and_windows_lines_are_taken(from_yaml) -> None:
    assert from_yaml(b"\xef\xbb\xbfsteps: 4\r\nname: b\r\n").steps == 4


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: f"options: {text}".encode("utf-8", "replace")))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    try:
        parse(["--config", write(tmp_path, data)], [Made])
    except InputError as error:
        assert is_lines(error)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["--steps", "--layers=", "--fast", "-1", "x", "--", "=", "{", ""]) | st.text(), max_size=5
    )
)
def test_any_words_are_read_or_refused_in_one_line(words: list[str]) -> None:
    try:
        parse(words, [Made])
    except InputError as error:
        assert is_lines(error)


# --- Shipped recipes ---


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "shipped"
    for name in ("tiny/a.yaml", "tiny/b.yaml", "accelerate/ddp.yaml", "tiny/policy/config.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"\n# What {name} is for.\n# More.\nsteps: 9\n")
    monkeypatch.setattr(shipped_recipes, "recipes_root", lambda: root)
    return root


def test_list_names_what_can_be_trained(shipped: Path) -> None:
    assert list_recipes() == [
        ("tiny/a", shipped / "tiny/a.yaml", "What tiny/a.yaml is for."),
        ("tiny/b", shipped / "tiny/b.yaml", "What tiny/b.yaml is for."),
    ]


@pytest.mark.parametrize("name", ["tiny/a", "tiny/a.yaml"])
def test_shipped_recipe_is_found_by_name(shipped: Path, name: str) -> None:
    assert find_recipe(name) == shipped / "tiny/a.yaml"
    assert parse(["--config", name], [Made])[0].steps == 9


def test_a_path_goes_before_a_name(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/a.yaml").write_text("steps: 1\n")
    assert find_recipe("tiny/a.yaml") == Path("tiny/a.yaml")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("tiny/aa", "tiny/aa: no such recipe; did you mean tiny/a?"),
        ("nowhere.yaml", "nowhere.yaml: no such recipe; write the path"),
        (".", ".: is a directory, not a recipe"),
        ("x" * 5000, "no such recipe"),
        ("a\0b", "no such recipe"),
    ],
)
def test_missing_recipe_is_one_line(shipped: Path, name: str, part: str) -> None:
    assert part in refusal(find_recipe, name)


def test_what_is_no_regular_file_is_not_waited_on(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a long path is cut where it is said
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "zero.yaml"):
        assert f"{name}: is not a regular file" in refusal(find_recipe, f"./{name}")


def test_the_clone_has_its_recipes_beside_the_package() -> None:
    assert (recipes_root() / "accelerate" / "ddp.yaml").is_file()


def test_an_installed_wheel_has_its_recipes_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped_recipes, "__file__", str(tmp_path / "recipes" / "shipped.py"))
    assert recipes_root() == tmp_path.parent / "recipes"
    (tmp_path / "_recipes").mkdir()
    assert recipes_root() == tmp_path / "_recipes"


# --- TRL's own classes ---

TRL_FLAGS = [
    "--output_dir=out",
    "--bf16=false",
    "--learning_rate=1e-6",
    "--max_steps=3",
    "--save_steps=2",
    "--report_to=none",
    "--eval_strategy=no",
    "--lr_scheduler_type=cosine",
    "--lr_scheduler_kwargs=" + '{"num_cycles": "2"}',
    "--model_init_kwargs=" + '{"dtype": "float32", "deep": {"on": "true"}}',
    "--generation_kwargs=" + '{"do_sample": true}',
    "--optim=sgd",
    "--epsilon_high=0.28",
    "--delta=none",
    "--log_completions=true",
    "--debug=underflow_overflow",
    "--use_cpu=true",
    "--remove_unused_columns=false",
    "--include_num_input_tokens_seen=true",
    "--lora_r=8",
    "--lora_target_modules=all-linear",
    "--model_name_or_path=policy",
    "--dtype=float32",
]


def comparable(arguments: Any) -> dict[str, Any]:
    values = arguments.to_dict() if hasattr(arguments, "to_dict") else dict(vars(arguments))
    return {name: value for name, value in values.items() if name != "logging_dir"}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_flags_give_what_trlparser_gives() -> None:
    ours = parse(TRL_FLAGS, [GRPOConfig, ModelConfig])
    theirs = TrlParser([GRPOConfig, ModelConfig]).parse_args_and_config(TRL_FLAGS)
    for mine, yours in zip(ours, theirs, strict=True):
        assert comparable(mine) == comparable(yours)
    assert ours[0].lr_scheduler_kwargs == {"num_cycles": 2}  # transformers turns "2" into 2 inside JSON
    assert ours[0].model_init_kwargs == {"dtype": "float32", "deep": {"on": True}}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_recipe_gives_what_trlparser_gives(tmp_path: Path) -> None:
    recipe = {
        "output_dir": "out",
        "bf16": False,
        "learning_rate": 1e-4,
        "max_steps": 3,
        "warmup_steps": 10,
        "save_steps": 2,
        "report_to": ["tensorboard"],
        "lr_scheduler_type": "cosine",
        "model_init_kwargs": {"dtype": "float32"},
        "chat_template_kwargs": json.dumps({"a": "1"}),
        "reward_weights": [1.0, 0.5],
        "use_cpu": True,
        "lora_target_modules": ["q_proj", "v_proj"],
        "model_name_or_path": "policy",
    }
    flags = ["--config", write(tmp_path, yaml.safe_dump(recipe)), "--max_steps", "4"]
    ours = parse(flags, [GRPOConfig, ModelConfig])
    theirs = TrlParser([GRPOConfig, ModelConfig]).parse_args_and_config(flags)
    for mine, yours in zip(ours, theirs, strict=True):
        assert comparable(mine) == comparable(yours)
    assert (ours[0].max_steps, ours[0].learning_rate) == (4, 1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("learning_rat: 1e-5\n", "did you mean learning_rate?"),
        ("max_steps: 1e3\n", "max_steps: expected int, got 1000.0 (float)"),
        ("eval_strategy: no\n", "eval_strategy: expected one of no, steps, epoch, got False (bool); YAML reads"),
        ("lr_scheduler_type: cosin\n", "did you mean cosine?"),
        ("log_level: loud\n", "log_level: expected one of detail, debug"),
        ("use_cpu: true\nbf16: false\naccelerator_config: {split: true}\n", "split"),
        ("use_cpu: true\nbf16: false\naccelerator_config: nowhere.json\n", "nowhere.json"),
        ("use_cpu: true\nbf16: false\nsave_steps: .inf\n", "r.yaml:3: save_steps: cannot convert float infinity"),
        ("use_cpu: true\nbf16: false\nnum_generations: 1\n", "at least 2 generations"),
        ("load_in_8bit: true\nload_in_4bit: true\nuse_cpu: true\nbf16: false\n", "8 bit and 4 bit"),
    ],
)
def test_trl_refusals_become_one_line(tmp_path: Path, text: str, part: str) -> None:
    message = refusal(parse, ["--config", write(tmp_path, text)], [GRPOConfig, ModelConfig])
    assert part in message and "r.yaml" in message


# --- Values of dotted flags, paths, unknown keys ---


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("False", False),
        ("off", False),
        ("null", None),
        ("1e-5", 1e-5),
        ("[3, four]", [3, "four"]),
        ("{a: no}", {"a": False}),
        ("'False'", "False"),
        ("my.module:score", "my.module:score"),
        ("50 # percent", "50 # percent"),
        ("two\nlines", "two\nlines"),
        ("", ""),
    ],
)
def test_a_dotted_flag_is_read_as_a_recipe_is(word: str, value: Any) -> None:
    read = from_flags(f"--options.a={word}").options
    assert isinstance(read, dict) and read["a"] == value and type(read["a"]) is type(value)


@pytest.mark.parametrize(
    "word", ["Answer: D", "[3, 4", "*.jsonl", "@x", "010", "- a", "!!python/name:os.system", "a\0"]
)
def test_a_dotted_flag_that_is_no_value_is_refused(word: str) -> None:
    message = refusal(from_flags, f"--options.a={word}")
    assert message.startswith("--options.a: ") and "is not a YAML value" in message and "in quotes" in message


def test_a_bare_dotted_flag_is_true_and_several_words_are_a_list() -> None:
    assert from_flags("--options.a", "--options.b", "1", "no").options == {"a": True, "b": [1, False]}


def test_a_flag_that_says_no_is_seen_before_the_others() -> None:
    assert peek(["--fast", "False"], "fast") is False and peek(["--fast=no"], "fast") is False
    assert peek(["--name", "grpo"], "name") == "grpo"


def test_the_home_folder_is_written_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = write(tmp_path, "name: ~/runs/a\ntitle: a ~/b\n")
    (made,) = parse(["--config", "~/r.yaml", "--layers=~/x"], [Made])
    assert recipe == f"{tmp_path}/r.yaml"
    assert (made.name, made.title, made.layers) == (f"{tmp_path}/runs/a", "a ~/b", f"{tmp_path}/x")


def test_unknown_keys_are_listed_at_once(tmp_path: Path) -> None:
    recipe = write(tmp_path, "step: 1\nname: x\nrat: 2\n")
    message = refusal(parse, ["--config", recipe, "--horizn", "2", "3", "--no_careful", "--name", "y"], [Made])
    assert message.splitlines() == [
        "4 keys are unknown:",
        "--horizn: unknown flag; did you mean --horizon?",
        "--no_careful: unknown flag; write --careful false",
        f"{recipe}:1: unknown key 'step'; did you mean steps?",
        f"{recipe}:3: unknown key 'rat'; did you mean rate?",
    ]
    many = write(tmp_path, "".join(f"zz{number}: 1\n" for number in range(40)), "many.yaml")
    with pytest.raises(InputError) as refused:
        parse(["--config", many], [Made])
    assert len(refused.value.lines) == 40


def test_given_values_are_what_the_recipe_and_the_flags_say(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps: 3\nrate: 1e-5\nnames: [a, b]\n")
    words = ["--config", str(recipe), "--steps=4", "--credit-horizon", "10", "-1", "--fast", "--options.deep", "x"]
    assert given_values(words) == {
        "steps": "4", "rate": 1e-5, "names": ["a", "b"], "credit_horizon": "10 -1", "fast": None, "options": "x",
    }  # fmt: skip
    assert given_values([]) == {}
