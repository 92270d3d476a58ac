"""Sets the examples in docstrings as code; griffe does so under "Examples" alone."""

import re
from typing import Any

import griffe

# An example goes on to the next blank line, whatever it prints.
EXAMPLE = re.compile(r"^( *)>>> .*(?:\n\1.+)*", re.MULTILINE)


def fenced(match: re.Match) -> str:
    """One example between fences, as far in as it stood."""
    indent = match[1]
    return f"{indent}```pycon\n{match[0]}\n{indent}```"


class Doctests(griffe.Extension):
    """Puts fences around each example."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(fenced, obj.docstring.value)
