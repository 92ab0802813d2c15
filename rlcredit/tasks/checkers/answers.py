r"""Where the answer of a completion stands: its text, its last box, tag or "answer is".

Everything here reads hostile text: no recursion, and time linear in the length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

MAX_ANSWER = 1_000  # characters; a longer text is no answer
MAX_SHOWN = 200  # characters of `Verdict.answer`

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
    first = _BOX.search(text)
    if first is None:
        return None
    content = _last_box(text, first.start())
    return None if content is None or len(content) > MAX_ANSWER else content


def _last_box(text: str, position: int) -> str | None:
    """One pass with a stack of the open braces; a box that begins later counts as later, also if it is inside."""
    opened: list[tuple[int, int]] = []  # of each open brace: where its box begins (-1: no box), where its content does
    last, content = -1, None
    for token in _TOKEN.finditer(text, position):
        if token["open"]:
            opened.append((token.start(), token.end()))
        elif token["bare"]:
            last, content = token.start(), token["bare"]
        elif token["brace"] == "{":
            opened.append((-1, -1))
        elif token["brace"] == "}" and opened:
            start, inside = opened.pop()
            if start > last:
                last, content = start, text[inside : token.start()].strip()
    return content


def in_last_tag(text: str) -> str | None:
    """What stands in the last `<answer>...</answer>`, or `None` if no such place is closed."""
    before, end, _ = text.rpartition("</answer>")
    _, start, answer = before.rpartition("<answer>")
    return answer if start and end else None


def tagged(text: str) -> str | None:
    """The same, stripped; `None` also for a text that is too long to be an answer."""
    answer = in_last_tag(text)
    return None if answer is None or len(answer) > MAX_ANSWER else answer.strip()


def phrase(text: str) -> str | None:
    """The rest of the line after the last "answer is" or "answer:"."""
    end = max((match.end() for match in _PHRASE.finditer(text)), default=None)
    if end is None:
        return None
    line, _, _ = text[end : end + MAX_ANSWER + 1].partition("\n")
    return line.strip() if len(line) <= MAX_ANSWER else None


def final_answer(text: str) -> str | None:
    """The last box; without any, the last `<answer>` tag; without that, the rest of the line after "answer is".

    A text whose boxes are all unclosed has no answer: it was cut off while it gave one.
    """
    if has_box(text):
        return boxed(text)
    answer = tagged(text)
    return phrase(text) if answer is None else answer


def plain(answer: str) -> str:
    r"""The answer without `\text{}` and the like, dollar signs and emphasis; spaces of any kind become one space."""
    for _ in range(3):  # \textbf{(\text{B})}: a few deep, not any depth
        answer = _TEXT_COMMAND.sub(r"\1", answer)
    answer = re.sub(r"\\[ ,;:!]|\\q?quad(?![A-Za-z])|~", " ", answer)
    return " ".join(re.sub(r"\\?\$|\*\*|__", "", answer).split())


def shown(answer: str) -> str:
    """`answer` as a verdict shows it: no lone surrogates (no file could hold them), at most `MAX_SHOWN` characters."""
    return answer[:MAX_SHOWN].encode("utf-8", "replace").decode("utf-8")
