"""Lists: their parameters, the page that a request asks for, and the link to the next page."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlencode

from fastapi import Query, Response
from pydantic import Field

from api.cursors import ListName, Place
from api.known_books import KnownBooks
from api.responses import make_json_response

LIMIT_MAX: Final = 1000
Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Most items on a page.")]
Cursor = Annotated[str | None, Query(max_length=1024, description="Opaque; from the `next` link of the page before.")]
NextLink = Annotated[str | None, Field(description="URL of the next page; null at the end.")]

Row = TypeVar("Row")


class Page:
    """One page of a list. `Reader.page` makes it."""

    def __init__(
        self,
        books: KnownBooks,
        name: ListName,
        path: str,
        limit: int,
        cursor: str | None,
        filters: Mapping[str, str | int | None],
    ) -> None:
        """Take the list's name with the values of its path, and the filters of its query in their documented order."""
        self._books = books
        self._name = (*name, *filters.values())
        self._path = path
        self._limit = limit
        self._cursor = cursor
        self._filters = filters

    @property
    def rows_max(self) -> int:
        """The most rows to read: one more than the page shows, which tells that there is a next page."""
        return self._limit + 1

    def begin(self, *start: int | str) -> tuple[Any, ...]:
        """Return the place after which the page begins: the cursor's, or `start` on the first page.

        Raise Problem unless the cursor is of this list, and its values have the types of `start`.
        """
        if self._cursor is None:
            return start
        return self._books.cursors.decode(self._cursor, self._name, tuple(type(value) for value in start))

    def shown(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the rows that the page shows, of at most `rows_max` that were read."""
        return rows[: self._limit]

    def link(self, place: Place | None) -> str | None:
        """Return the relative URL of the page that begins after `place`; None for None."""
        if place is None:
            return None
        cursor = self._books.cursors.encode(place, self._name)
        given = {name: value for name, value in self._filters.items() if value not in (None, "")}
        return f"{self._path}?{urlencode(given | {'limit': self._limit, 'cursor': cursor})}"

    def make_link_after(self, rows: Sequence[Row], place: Callable[[Row], Place]) -> str | None:
        """Return the link to the next page; None if the rows that were read end with this page."""
        return self.link(place(rows[self._limit - 1])) if len(rows) > self._limit else None

    def make_response(
        self, rows: Sequence[Row], view: Callable[[Row], dict[str, Any]], place: Callable[[Row], Place]
    ) -> Response:
        """Return the page as a response; `place` tells a row's place in the list."""
        return make_json_response(
            {"items": [view(row) for row in self.shown(rows)], "next": self.make_link_after(rows, place)}
        )
