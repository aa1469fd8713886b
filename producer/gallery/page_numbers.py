"""Where a page stands among all pages, and the names of their files."""

from __future__ import annotations

from dataclasses import dataclass

NEIGHBOURS = 2  # page numbers shown on either side of the current one


@dataclass(frozen=True)
class Page:
    """A page's number among `pages`, and the places of its first and last job among all that ended, from 1."""

    number: int
    pages: int
    first: int
    last: int

    @property
    def before(self) -> str | None:
        """The file of the page before."""
        return file_name(self.number - 1) if self.number > 1 else None

    @property
    def after(self) -> str | None:
        """The file of the page after."""
        return file_name(self.number + 1) if self.number < self.pages else None

    @property
    def numbers(self) -> list[tuple[int, str] | None]:
        """The pages that this one links to by number, first and last always; None where some are left out."""
        near = range(self.number - NEIGHBOURS, self.number + NEIGHBOURS + 1)
        shown = sorted({1, self.pages, *(number for number in near if 1 <= number <= self.pages)})
        links: list[tuple[int, str] | None] = []
        for before, number in zip([0, *shown], shown, strict=False):
            if number == before + 2:
                links.append((number - 1, file_name(number - 1)))  # no shorter without it
            elif number > before + 2:
                links.append(None)
            links.append((number, file_name(number)))
        return links


def file_name(number: int) -> str:
    """`index.html` for the first page."""
    return "index.html" if number == 1 else f"page-{number}.html"


def script_name(number: int) -> str:
    """The file with a page's words for the search."""
    return f"search/page-{number}.js"
