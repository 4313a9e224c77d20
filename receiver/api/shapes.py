"""The words in which programs ask and are answered: ids, times, amounts, cursors, pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from processors.zoho.items import ITEM_ID

T = TypeVar("T")
S = TypeVar("S")

# Below 10^18: every number of this form is a bigint.
_ID = "[1-9][0-9]{0,17}"
# A position in a list: rows of former releases may have ids of another form.
_ANY_ITEM_ID = r"[^\s/?#%\\\x00-\x1f\x7f]{1,64}"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.IGNORECASE | re.ASCII)
_FIRST, _LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
# JSON's numbers are read as binary floating point by many: what that would change travels as text.
_EXACT_INTEGERS = 2**53


def _matching(form: str, example: str, read: Callable[[str], Any] = str) -> tuple[BeforeValidator, WithJsonSchema]:
    """Read a text of this form; the document says the same."""
    pattern = re.compile(form, re.ASCII)

    def validate(value: object) -> object:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            message = f"should be a text such as {example}"
            raise ValueError(message)
        return read(value)

    return BeforeValidator(validate), WithJsonSchema(
        {"type": "string", "pattern": f"^(?:{form})$", "examples": [example]}
    )


def _moment(value: object) -> object:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        message = "should be a time with its zone, such as 2026-10-05T16:02:21Z (in an address, + is written as %2B)"
        raise ValueError(message)
    try:
        # Fractions are cut at what a datetime can hold.
        at = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value.upper()))
    except ValueError:
        message = "there is no such time"
        raise ValueError(message) from None
    try:
        return at.astimezone(UTC)
    except OverflowError:
        # A few hours beyond the first or the last year.
        return _FIRST if at.year == 1 else _LAST


def _whole(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = "should be a number"
        raise ValueError(message)  # noqa: TRY004 - pydantic reads only this one as the caller's fault
    return value


# What programs send

Whole = Annotated[int, BeforeValidator(_whole)]
"""In a body, where a number is no text."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]
"""Without NUL, which Postgres has no place for."""

Note = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")]

Id = Annotated[int, *_matching(_ID, "12345", int)]
ItemId = Annotated[str, *_matching(ITEM_ID, "4100000000000012345")]
Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-10-05T16:02:21Z"]}),
]
ChangeId = Annotated[int, *_matching("0|" + _ID, "0", int)]
IdCursor = Annotated[int, *_matching(f"before-{_ID}", "before-12345", lambda text: int(text.removeprefix("before-")))]
ItemCursor = Annotated[
    str, *_matching(f"after-{_ANY_ITEM_ID}", "after-4100000000000012345", lambda text: text.removeprefix("after-"))
]
Limit = Annotated[int, Field(ge=1, le=200, description="How many, at most.")]

DEFAULT_LIMIT = 50


class Asked(BaseModel):
    """What a program asks for; a name that is none is refused, so that a slip does not choose everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# What programs are answered


def _number_as_text(number: Decimal) -> str:
    return format(number, "f")


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return a value of JSON with every number as text that many readers of JSON would not keep exactly."""
    match value:
        case dict():
            return {key: plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case Decimal():
            return _number_as_text(value) if value.is_finite() and abs(value.adjusted()) < 100 else str(value)  # noqa: PLR2004
        case int() if abs(value) > _EXACT_INTEGERS:
            return str(value)
    return value


IdText = Annotated[int, PlainSerializer(str, return_type=str)]
Amount = Annotated[Decimal, PlainSerializer(_number_as_text, return_type=str)]
Json = Annotated[dict[str, Any], BeforeValidator(plain)]
ChangedColumns = Annotated[
    dict[str, Annotated[list[Any], Field(min_length=2, max_length=2)]],
    BeforeValidator(plain),
    Field(description="Of each column the old and the new value; prices and exact stock are texts."),
]
At = AwareDatetime


class Answer(BaseModel):
    """What is answered, made from what a read returns."""

    model_config = ConfigDict(from_attributes=True, frozen=True, json_schema_serialization_defaults_required=True)


class Page(Answer, Generic[T]):
    """A part of a list."""

    items: list[T]
    next_cursor: str | None = Field(description="For the next part, as it is; null: there is none.")


def page_of(found: Sequence[S], limit: int, show: Callable[[S], T], cursor: Callable[[S], str]) -> Page[T]:
    """Return a page of what was found, which is one more than fits where there is a next page."""
    shown = found[:limit]
    return Page(items=[show(each) for each in shown], next_cursor=cursor(shown[-1]) if len(found) > limit else None)
