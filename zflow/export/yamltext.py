"""Plain data as YAML, for the configurations of other tools.

Decides the layout, and the line that says where the file comes from. Never reads YAML, and writes
no more of it than dicts, lists and scalars.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# What is read back as the same text without quotes in YAML 1.1, which Go's readers follow: no
# number, no `yes` and `off`, nothing that begins or holds a sign with a meaning.
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*")
_NOT_TEXT = {"true", "false", "yes", "no", "on", "off", "null", "y", "n", ".inf", ".nan"}


# Stands in every file that is written, so that a new export knows which ones it may replace.
MADE_BY = "Made by zflow export from the declared topology; a new export replaces it."


def yaml_text(data: Any, *, heading: str = "") -> str:
    """A document in block style; dicts keep their order.

    heading: what it is, as comment lines above it. Text of several lines becomes a literal block.
    """
    comments = [f"# {line}".rstrip() for line in [*heading.splitlines(), MADE_BY]]
    return "\n".join([*comments, *_block(data), ""])


def _block(data: Any) -> Iterator[str]:
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from _entry(f"{_scalar(key)}:", value)
    elif _is_list(data) and data:
        for value in data:
            yield from _item(value)
    else:
        yield _scalar(data)


def _entry(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple) and value:
        yield name
        yield from _indented(_block(value))
    elif isinstance(value, str) and _is_literal(value):
        yield f"{name} |-"
        yield from _indented(value.splitlines())
    else:
        yield f"{name} {_scalar(value)}"


def _item(value: Any) -> Iterator[str]:
    lines = _block(value)
    yield f"- {next(iter(lines))}"
    yield from _indented(lines)


def _indented(lines: Any) -> Iterator[str]:
    for line in lines:
        yield f"  {line}"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    if isinstance(value, str) and '"' in value and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    # Flow style is JSON, and JSON's strings are double-quoted YAML.
    return json.dumps(value, ensure_ascii=False)


def _is_literal(text: str) -> bool:
    """Whether text has several lines and survives a literal block as it is."""
    return "\n" in text and not text.startswith((" ", "\n")) and not text.endswith("\n")


def _is_list(data: Any) -> bool:
    return isinstance(data, Sequence) and not isinstance(data, str)
