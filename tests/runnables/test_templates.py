"""Fields of any name, and formats that do not fit."""

from __future__ import annotations

import pytest

from batchrt import ChatPromptTemplate, PromptTemplate
from batchrt.runnables.templates import Template

COLUMNS = ("2019", "Q1: How?", "dc:title", "Wow!", "a!r", "a", "price", "a{b}", "x[0]", "[", "0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{2019}", "<2019>"),
        ("{0}{2019}", "<0><2019>"),
        ("{Q1: How?} {Wow!}", "<Q1: How?> <Wow!>"),
        ("{{2019}}", "{2019}"),
        ("{{{2019}}}", "{<2019>}"),
        ("{a!r} {a!s}", "<a!r> <a>"),
        ("{a:>5}|{dc:title}", "  <a>|<dc:title>"),
        ("{a{b}}{x[0]}{[}", "<a{b}><x[0]><[>"),
        ("{a} {{a}} {price}", "<a> {a} <price>"),
    ],
)
def test_template_accepts_known_columns_of_any_name(text: str, expected: str) -> None:
    """The whole of the braces must be the name; other braces are read as usual."""
    row = {name: f"<{name}>" for name in COLUMNS}
    template = Template(text, COLUMNS)
    assert template.fill(row) == expected
    assert set(template.fields) <= set(COLUMNS)
    chat = ChatPromptTemplate.from_messages([("system", [text]), ("human", text)], columns=COLUMNS)
    assert chat.partial(unused=1).invoke(row).to_string().endswith(f"Human: {expected}")
    single = PromptTemplate(text, columns=COLUMNS).partial(unused=1)
    assert single.invoke(row).to_string() == expected


@pytest.mark.parametrize("text", ["{2020}", "{Q2: How?}", "{Wow?!}", "{}", "{a:{2019}}", "{2019"])
def test_template_reads_unknown_columns_as_usual(text: str) -> None:
    """Without `columns` the syntax does not change."""
    try:
        fields = Template(text).fields
    except ValueError:
        with pytest.raises(ValueError, match="the prompt template is not valid"):
            Template(text, COLUMNS)
    else:
        assert Template(text, COLUMNS).fields == fields


@pytest.mark.parametrize(
    ("text", "value"),
    [("{a:.2f}", "x"), ("{a:d}", 1.5), ("{a:.2f}", {}), ("{a:>5}", [1]), ("{a!s:d}", 1), ("{a:xyz}", 1)],
)
def test_template_names_the_field_of_a_failed_format(text: str, value: object) -> None:
    """The message also has the format."""
    with pytest.raises((TypeError, ValueError), match=r"the field 'a' cannot be written as \{a:"):
        Template(text).fill({"a": value})
