"""Named SQL statements, read from the files beside this module."""

from __future__ import annotations

import re
from importlib import resources
from typing import LiteralString, cast

from processors import field_table

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_CONTENT = re.compile(r"\{content(?:: ([^{}]+))?\}")


class Queries:
    """The statements of one `.sql` file, as attributes.

    A statement begins at a line `-- name: its_name` and runs to the next one. `{content}` stands for the columns of the
    field table, `{content: excluded.@}` for the same, each written so; `@` is its name and `#` its type.

    Raises:
        AttributeError: the file has no statement of that name.
    """

    def __init__(self, file_name: str) -> None:
        """Read `sql/<file_name>` from the package."""
        text = resources.files(__package__).joinpath("sql", file_name).read_text("utf-8")
        parts = _NAME.split(_CONTENT.sub(_written_out, text))
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


def _written_out(match: re.Match[str]) -> str:
    template = match[1] or "@"
    return ", ".join(
        template.replace("@", column).replace("#", source.sql) for column, source in field_table.BY_COLUMN.items()
    )


def containing(part: str | None) -> str | None:
    """Return a pattern of LIKE for texts that hold this part, whatever signs are in it."""
    if part is None:
        return None
    escaped = part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
