r"""Where the answer of a completion stands: its text, its last box, tag or "answer is".

Everything here reads hostile text: no recursion, and time linear in the length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

MAX_ANSWER = 1_000  # characters; a longer text is no answer
MAX_SHOWN = 200  # characters of `Verdict.answer`

Span = tuple[int, int]
"""Of characters: the first, and the one after the last."""

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
# Escaped braces are characters, not brackets. A doubled backslash is a line break, except in the \\boxed of a text
# that was escaped once too often. Without braces, only a number or a single letter is taken for the content.
_TOKEN = re.compile(
    r"\\\\(?!(?:boxed|fbox)(?![A-Za-z]))|\\[{}]"
    r"|(?P<box>\\(?:boxed|fbox)(?![A-Za-z])\s{0,9}(?:(?P<open>\{)|(?P<bare>-?[0-9][0-9.,/]*|[A-Za-z](?![A-Za-z]))?))"
    r"|(?P<brace>[{}])"
)
_PHRASE = re.compile(r"\banswer\b[*_\s]{0,9}(?:is\b|[:=])[:*_\s]{0,9}", re.IGNORECASE)
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mbox|mathrm|mathbf)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)


def completion_text(completion: str | Sequence[Mapping[str, object]]) -> str:
    """The text of a completion; of a conversation, what the assistant wrote, message after message."""
    if isinstance(completion, str):
        return completion
    return "".join(_content_text(message.get("content")) for message in completion if _is_assistant(message))


def _is_assistant(message: Mapping[str, object]) -> bool:
    return message.get("role", "assistant") == "assistant"


def _content_text(content: object) -> str:
    """Text of a message's content: a string, a list of typed parts, or nothing at all (a bare tool call)."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))


def has_box(text: str) -> bool:
    r"""Whether a `\boxed` or `\fbox` is begun anywhere, closed or not."""
    return _BOX.search(text) is not None


def boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{...}` or `\fbox{...}` (of nested ones: the innermost), stripped.

    `\boxed 5`, without braces, is a box of a number or a single letter. `None` without a complete box, and where the
    content of the last one is over `MAX_ANSWER` characters.
    """
    return _text_at(text, _box_span(text))


def _box_span(text: str) -> Span | None:
    """One pass with a stack of the open braces; a box that begins later counts as later, also if it is inside."""
    first = _BOX.search(text)
    if first is None:
        return None
    opened: list[Span] = []  # of each open brace: where its box begins (-1: no box), where its content does
    last, content = -1, None
    for token in _TOKEN.finditer(text, first.start()):
        if token["open"]:
            opened.append((token.start(), token.end()))
        elif token["bare"]:
            last, content = token.start(), token.span("bare")
        elif token["brace"] == "{":
            opened.append((-1, -1))
        elif token["brace"] == "}" and opened:
            start, inside = opened.pop()
            if start > last:
                last, content = start, (inside, token.start())
    if content is None:
        return None
    start, end = _stripped(text, content)
    return (start, end) if end - start <= MAX_ANSWER else None


def tag_span(text: str) -> Span | None:
    """Where the text of the last `<answer>...</answer>` begins and ends; `None` if no such place is closed."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return None if start < 0 else (start + len("<answer>"), end)


def in_last_tag(text: str) -> str | None:
    """What stands in the last `<answer>...</answer>`, or `None` if no such place is closed."""
    return _text_at(text, tag_span(text))


def tagged(text: str) -> str | None:
    """The same, stripped; `None` also for a text that is too long to be an answer."""
    return _text_at(text, _short(text, tag_span(text)))


def phrase(text: str) -> str | None:
    """The rest of the line after the last "answer is" or "answer:"."""
    return _text_at(text, _phrase_span(text))


def _phrase_span(text: str) -> Span | None:
    start = max((match.end() for match in _PHRASE.finditer(text)), default=None)
    if start is None:
        return None
    line, _, _ = text[start : start + MAX_ANSWER + 1].partition("\n")
    return _short(text, (start, start + len(line)))


def _short(text: str, span: Span | None) -> Span | None:
    """The span without the spaces around it; `None` for one that is too long to be an answer."""
    return None if span is None or span[1] - span[0] > MAX_ANSWER else _stripped(text, span)


def _stripped(text: str, span: Span) -> Span:
    inside = text[slice(*span)]
    start = span[0] + len(inside) - len(inside.lstrip())
    return start, start + len(inside.strip())


def _text_at(text: str, span: Span | None) -> str | None:
    return None if span is None else text[slice(*span)]


def answer_span(text: str) -> Span | None:
    """Where `final_answer` begins and ends in the text."""
    if has_box(text):
        return _box_span(text)
    return _short(text, tag_span(text)) or _phrase_span(text)


def final_answer(text: str) -> str | None:
    """The last box; without any, the last `<answer>` tag; without that, the rest of the line after "answer is".

    A text whose boxes are all unclosed has no answer: it was cut off while it gave one.
    """
    return _text_at(text, answer_span(text))


def plain(answer: str) -> str:
    r"""The answer without `\text{}` and the like, dollar signs and emphasis; spaces of any kind become one space."""
    for _ in range(3):  # \textbf{(\text{B})}: a few deep, not any depth
        answer = _TEXT_COMMAND.sub(r"\1", answer)
    answer = re.sub(r"\\[ ,;:!]|\\q?quad(?![A-Za-z])|~", " ", answer)
    return " ".join(re.sub(r"\\?\$|\*\*|__", "", answer).split())


def shown(answer: str) -> str:
    """`answer` as a verdict shows it: no lone surrogates (no file could hold them), at most `MAX_SHOWN` characters."""
    return answer[:MAX_SHOWN].encode("utf-8", "replace").decode("utf-8")
