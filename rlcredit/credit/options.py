"""The options of a strategy: `credit_options` of a recipe, with defaults and ranges."""

from __future__ import annotations

from typing import Any

from rlcredit.credit.arguments import CreditArguments

Spec = tuple[Any, ...]


class Options:
    """What a strategy takes in `credit_options`.

    Args:
        weights: whether it gives weights; the settings about those are refused where it does not.
        specs: by name: (default number, least, most), where None is no limit; or texts, the first one the default.
    """

    def __init__(self, *, weights: bool = True, **specs: Spec) -> None:
        self._weights, self._specs = weights, specs

    def of(self, args: CreditArguments) -> dict[str, Any]:
        """The values of a run: those given, else the defaults."""
        given = args.credit_options or {}
        assert not isinstance(given, str)  # decoded in __post_init__
        return {name: given.get(name, spec[0]) for name, spec in self._specs.items()}

    def validate(self, args: CreditArguments) -> None:
        """Raises: ValueError of one line that names the option and what it takes."""
        for name, unused in (("credit_sign", "both"), ("credit_normalize", "none")):
            if not self._weights and (value := getattr(args, name)) != unused:
                raise ValueError(
                    f"{name}: {value!r} is for weights, and {args.credit_strategy} gives advantages; write {unused}"
                )
        unknown = set(args.credit_options or {}) - self._specs.keys()
        if unknown:
            name, known = sorted(map(str, unknown))[0], ", ".join(self._specs)
            raise ValueError(f"credit_options: {args.credit_strategy} does not take {name}; it takes {known}")
        for name, value in self.of(args).items():
            if (takes := _refusal(value, self._specs[name])) is not None:
                raise ValueError(f"credit_options: {name}: {value!r} is not {takes}")


def _refusal(value: Any, spec: Spec) -> str | None:
    """What the option takes, if the value is not of it."""
    if isinstance(spec[0], str):
        return None if value in spec else f"one of {', '.join(spec)}"
    _, least, most = spec
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    whole = isinstance(spec[0], int)
    fits = is_number and (least is None or value >= least) and (most is None or value <= most)
    if fits and (not whole or float(value).is_integer()):
        return None
    kind = "a whole number" if whole else "a number"
    if most is None:
        return kind if least is None else f"{kind} of at least {least}"
    return f"{kind} from {least} to {most}"
