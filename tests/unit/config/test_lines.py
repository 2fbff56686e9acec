from __future__ import annotations

import tomllib

import pytest

from atoll.config.lines import line_of, line_of_syntax_error

TEXT = """\
# a comment with name = "x"
[deployment]
name = "shop"
limits = { depth = 3 }

[regions."new-york"]  # quoted
url = "http://a:1"
[regions.tokyo]
"url" = "http://b:1"
emulate.rtt_ms = 1
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("deployment",), 2),
        (("deployment", "name"), 3),
        (("deployment", "limits", "depth"), 4),
        (("deployment", "missing"), 2),
        (("regions", "new-york", "url"), 7),
        (("regions", "tokyo", "url"), 9),
        (("regions", "tokyo", "emulate", "rtt_ms"), 10),
        (("nothing",), 1),
    ],
)
def test_line_is_that_of_the_value_or_the_table_around_it(path: tuple[str, ...], line: int) -> None:
    assert line_of(TEXT, path) == line


@pytest.mark.parametrize(("text", "line"), [("a = 1\nb = = 2\n", 2), ("a = 1\nb = [\n", 2), ("[a", 1)])
def test_syntax_error_has_a_line(text: str, line: int) -> None:
    with pytest.raises(tomllib.TOMLDecodeError) as caught:
        tomllib.loads(text)
    assert line_of_syntax_error(caught.value, text) == line
