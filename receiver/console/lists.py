"""What the console's lists have in common: a filter in the address, pages, and nothing that edits a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette_admin import BaseModelView
from starlette_admin.fields import BaseField
from starlette_admin.filters import FilterGroup
from starlette_admin.i18n import get_tzinfo

from processors.store.database import Row
from receiver.console.context import Console, visitor

MOST_COUNTED = 10_000
"""Lists count no further: behind that a filter finds more than pages do."""

_LARGEST_ID = 2**63 - 1


def _on_the_calendar(at: datetime) -> datetime:
    # At its very ends a time in one zone has none in another.
    if not 1 < at.year < 9999:  # noqa: PLR2004 - years
        message = "the year is none of ours"
        raise ValueError(message)
    return at


RowId = Annotated[int, Field(ge=0, le=_LARGEST_ID)]
Moment = Annotated[datetime, AfterValidator(_on_the_calendar)]


class Filter(BaseModel):
    """What a list's form asks for. An empty value asks for nothing; a wrong one is said, not ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if "\0" in value:
            message = "it holds a NUL character"
            raise ValueError(message)
        return value.strip() or None

    @classmethod
    def of(cls, parameters: QueryParams) -> Filter:
        """Read an address.

        Raises:
            HTTPException: 400, with the field and what it should hold.
        """
        given = {name: parameters.get(name) for name in cls.model_fields if parameters.get(name, "").strip()}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            wrong = [f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors(include_url=False)]
            raise HTTPException(400, f"The filter cannot be read. {'; '.join(wrong)}") from None

    def given(self) -> dict[str, Any]:
        """Return what was asked for."""
        return self.model_dump(exclude_defaults=True)


def in_operators_zone(at: datetime | None) -> datetime | None:
    """Take a time without a zone, as a form sends it, for one of the operator's."""
    return at and (at if at.tzinfo else at.replace(tzinfo=get_tzinfo())).astimezone(UTC)


def parse_id(text: str) -> int | None:
    """Read an id of ours; None: it is none."""
    is_one = text.isascii() and text.isdecimal() and len(text) < 20  # noqa: PLR2004 - digits of a bigint
    return int(text) if is_one and int(text) <= _LARGEST_ID else None


@dataclass
class Column(BaseField):
    """A column whose template is given the whole row, not only the value."""

    async def parse_obj(self, request: Request, obj: Any) -> Any:  # noqa: ANN401 - the frame's signature
        """Return the row."""
        del request
        return obj

    async def serialize_value(self, request: Request, value: Any) -> Any:  # noqa: ANN401 - the frame's signature
        """Leave the row as it is: templates of ours show it, nothing else reads it."""
        del request
        return value


def column(name: str, template: str, label: str | None = None) -> Column:
    """Return a column shown by `columns/<template>.html`; the name is not that of the primary key."""
    return Column(name, label=label, list_template=f"columns/{template}.html", exclude_from_detail=True)


F = TypeVar("F", bound=Filter)


class List(BaseModelView, Generic[F]):
    """One list, and the page of one of its rows."""

    filter: ClassVar[type[Filter]]
    what: ClassVar[str]
    """What its rows are, in the plural."""

    searchable_fields: Sequence[str] = ()
    sortable_fields: Sequence[str] = ()
    actions: Sequence[str] | None = ()
    row_actions: Sequence[str] | None = ()
    exporters: Sequence[Any] = ()
    importers: Sequence[Any] = ()
    column_visibility = False
    search_highlight = False
    page_size = 50
    page_size_options: Sequence[int] = (50, 100)

    def __init__(self, console: Console) -> None:
        """Take what pages share."""
        self.console = console
        super().__init__()
        self.menu_label = self.menu_label or self.what.capitalize()

    def asked(self, request: Request) -> F:
        """Return the filter of a list's address, or of the list that an action came from.

        Raises:
            HTTPException: 400, with the field and what it should hold.
        """
        came_from = request.query_params.get("_list_query")
        parameters = request.query_params if came_from is None else QueryParams(came_from.lstrip("?"))
        asked: Any = self.filter.of(parameters)
        return asked  # type: ignore[no-any-return]

    async def find(
        self, request: Request, asked: F, sorts: Sequence[tuple[str, str]], *, skip: int, most: int
    ) -> Sequence[Any]:
        """Return a page of rows."""
        raise NotImplementedError

    async def count_up_to(self, request: Request, asked: F, *, at_most: int) -> int:
        """Count rows, and no further than `at_most`."""
        raise NotImplementedError

    async def find_all(
        self,
        request: Request,
        skip: int = 0,
        limit: int = 100,
        q: str | None = None,
        sorts: Sequence[tuple[str, str]] | None = None,
        filters: FilterGroup | None = None,
    ) -> Sequence[Any]:
        """Return a page of rows; the frame's own search and filters are not used."""
        del q, filters
        most = MOST_COUNTED if limit < 0 else limit
        return await self.find(request, self.asked(request), sorts or (), skip=min(skip, MOST_COUNTED), most=most)

    async def count(self, request: Request, q: str | None = None, filters: FilterGroup | None = None) -> int:
        """Count rows, up to `MOST_COUNTED`."""
        del q, filters
        return await self.count_up_to(request, self.asked(request), at_most=MOST_COUNTED)

    async def find_by_pk(self, request: Request, pk: Any) -> Any:  # noqa: ANN401 - the frame's signature
        """Return what the page of one row shows; None: there is no such row."""
        raise NotImplementedError

    async def find_by_pks(self, request: Request, pks: list[Any]) -> Sequence[Any]:
        """Return no rows: actions take the ids alone."""
        del request
        return pks

    async def create(self, request: Request, data: Row) -> Any:  # noqa: ANN401 - the frame's signature
        """Refuse: nothing is made by hand."""
        del request, data
        raise HTTPException(403)

    async def edit(self, request: Request, pk: Any, data: Row) -> Any:  # noqa: ANN401 - the frame's signature
        """Refuse: nothing is edited by hand."""
        del request, pk, data
        raise HTTPException(403)

    async def delete(self, request: Request, pks: list[Any]) -> int | None:
        """Refuse: nothing is deleted by hand."""
        del request, pks
        raise HTTPException(403)

    def can_create(self, request: Request) -> bool:
        """Answer for the frame's buttons and routes: rows come from Zoho and from actions."""
        del request
        return False

    can_edit = can_delete = can_export = can_import = can_create

    async def is_action_allowed(self, request: Request, name: str) -> bool:
        """Let operators act."""
        # The frame adds an export of its own, which would keep the webhooks waiting while it goes through all rows.
        return visitor(request).may_act and name != "export" and name in (self.actions or ())

    async def is_row_action_allowed(self, request: Request, name: str) -> bool:
        """Allow none: what is done to one row has a page and an address of its own."""
        del request, name
        return False
