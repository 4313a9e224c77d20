"""Named SQL statements, read from the files beside this module."""

from __future__ import annotations

import re
from importlib import resources
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


class Queries:
    """The statements of one `.sql` file, as attributes.

    A statement begins at a line `-- name: its_name` and runs to the next one.

    Raises:
        AttributeError: the file has no statement of that name.
    """

    def __init__(self, file_name: str) -> None:
        """Read `sql/<file_name>` from the package."""
        text = resources.files(__package__).joinpath("sql", file_name).read_text("utf-8")
        parts = _NAME.split(text)
        self._file_name = file_name
        self._statements = {name: statement.strip() for name, statement in zip(parts[1::2], parts[2::2], strict=True)}

    def __getattr__(self, name: str) -> LiteralString:
        """Return the statement; its text is part of the program, hence a literal."""
        try:
            return cast("LiteralString", self._statements[name])
        except KeyError:
            message = f"{self._file_name} has no statement named {name}"
            raise AttributeError(message) from None

    def names(self) -> list[str]:
        """Every statement of the file, for tests that prepare them all."""
        return list(self._statements)


def containing(part: str | None) -> str | None:
    """Return a pattern of LIKE for texts that hold this part, whatever signs are in it."""
    if part is None:
        return None
    escaped = part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
