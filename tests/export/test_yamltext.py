"""What is written as YAML is read back as the same."""

import pytest
import yaml

from zflow.export.yamltext import MADE_BY, yaml_text

TEXTS = [
    *("plain", "two words", "a/b.c", "", " ", " leading", "trailing ", "yes", "No", "null", "~"),
    *("5m", "1", "1.5", "0x10", "1e3", "2026-01-01", "-", "- a", "a: b", "a #b", "#", "'", '"'),
    *('a "b" c', 'it\'s "so"', "a\nb", "a\n  b\n\nc", "a\n", "\na", " a\nb", "\t", "wörter"),
    *("{{ $value }}", "[a]", "*x", "&x", "!x", "|", ">", "%a", "@a", "`a", "a:", "=", "<<", ".inf"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_wherever_it_stands(text):
    for data in ({"key": text}, [text], {"a": [{"b": text, "c": text}]}, {"k": {text or "x": 1}}):
        assert yaml.safe_load(yaml_text(data)) == data


@pytest.mark.parametrize(
    "data",
    [
        {"a": 1, "b": 2.5, "c": True, "d": None},
        {"a": {}, "b": [], "c": [[1, 2], [{"d": []}]]},
        [{"a": 1, "b": [1, 2]}, {"a": 2}],
        {"text": 'rate(x{a="b"}[5m])\n  / y', "after": 1},
    ],
)
def test_data_survives(data):
    assert yaml.safe_load(yaml_text(data)) == data


def test_a_document_says_what_it_is_and_where_it_comes_from():
    lines = yaml_text({"a": 1}, heading="One line.\n\nAnother.").splitlines()
    assert lines == ["# One line.", "#", "# Another.", f"# {MADE_BY}", "a: 1"]


def test_a_query_is_written_without_backslashes():
    assert yaml_text({"expr": 'up{job="a"}'}).endswith("expr: 'up{job=\"a\"}'\n")
    assert "\\" not in yaml_text({"expr": 'up{job="a"}\n  > 0'})
