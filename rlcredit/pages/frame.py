"""One HTML file that asks the network for nothing: a template, style, scripts and data, all inside it.

Words and tables are written by a Jinja2 template, everything escaped; what a script draws, it draws from JSON. Charts
are plotly's, whose smaller bundle (`vendor/`, plotly.js-cartesian-dist-min 4.1.1 of npm) is inside the page. Both are
packed (gzip, base64), which halves a page; its script unpacks them.

A completion of a model is hostile until shown otherwise. Its text is guarded twice: packed it has no character that
ends a script element, and the page's content security policy runs only the two scripts whose hashes it names and loads
nothing from anywhere.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

SHARED = Path(__file__).parent
PLOTLY = SHARED / "vendor" / "plotly-cartesian.min.js"
STYLES, SCRIPTS = ("page.css",), ("page.js", "text.js", "charts.js")


def render(
    template: Path,
    data: Any,
    context: Mapping[str, Any],
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    filters: Mapping[str, Callable[..., Any]] | None = None,
    own_server: bool = False,
) -> str:
    """The whole page as text.

    Args:
        template: a Jinja2 file that extends `layout.html.j2`, which says what a page has to tell.
        data: what the scripts draw, packed as JSON.
        context: what the template and the layout name.
        styles, scripts: file names beside the template, after those that all pages have. Scripts are joined into one
            module, in this order: each uses what those before it define.
        filters: more of Jinja2's, by name.
        own_server: whether its scripts may ask the server that the page is from, and no other.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    script = _joined(SCRIPTS, scripts, template.parent)
    if "</script" in script.lower():
        raise RuntimeError("a script of the page would end its own element")
    return environment.get_template(template.name).render(
        **context,
        data=packed(json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))),
        css=Markup(_joined(STYLES, styles, template.parent)),
        plotly=packed(_plotly()),
        script=Markup(script),
        policy=_policy_of(_plotly(), script, connect="'self'" if own_server else "'none'"),
    )


@cache
def _plotly() -> str:
    return PLOTLY.read_text(encoding="utf-8")


@lru_cache(maxsize=4)  # plotly takes half of the time that a page takes
def packed(text: str) -> str:
    """The text in gzip and base64, which any element can hold; equal texts give equal bytes."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def clean(value: Any) -> Any:
    """The value with lone surrogates, which UTF-8 cannot write, as U+FFFD in every string and key."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {clean(key): clean(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [clean(entry) for entry in value]
    return value


def cell(value: Any, spec: str = "") -> str:
    """A number or an Estimate as `spec` writes it (`exact` has all digits), a word as it is, a dash for no number.

    Without a spec three digits, or whole numbers from 1,000 on. With z in it a value that rounds to 0 has no sign.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "\N{EM DASH}"
    is_large = isinstance(value, int | float) and 999.5 <= abs(value) < 1e15
    spec = spec or ("z,.0f" if is_large else "z.3g")
    return value if isinstance(value, str) else f"{value:{spec}}".replace("-", "\N{MINUS SIGN}").replace("%", " %")


def exact(value: Any) -> str:
    """Every digit of a number or an Estimate, for the title of its cell."""
    if isinstance(value, tuple):
        middle, *bounds = value
        return _digits(middle) if math.isnan(bounds[0]) else f"{_digits(middle)} [{', '.join(map(_digits, bounds))}]"
    return _digits(value) if isinstance(value, int | float) and math.isfinite(value) else ""


def _digits(value: Any) -> str:
    return repr(float(value) if isinstance(value, float) else value)  # numpy's repr names its type


def _joined(shared: Sequence[str], own: Sequence[str], folder: Path) -> str:
    paths = [*(SHARED / name for name in shared), *(folder / name for name in own)]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def _policy_of(*scripts: str, connect: str) -> str:
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        f"connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )
