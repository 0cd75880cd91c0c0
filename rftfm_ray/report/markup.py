"""HTML that is escaped by construction: `tag` escapes every text that it is given, and what it returns is balanced."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


class Html(str):
    """Text that is markup already; everything else is escaped."""

    __slots__ = ()


NOTHING = Html("")


def escaped(text: str) -> Html:
    """`text` as markup that shows it as it is."""
    return text if isinstance(text, Html) else Html(html.escape(text, quote=True))


def tag(name: str, *content: str, **attributes: str) -> Html:
    """An element. A trailing underscore of an attribute's name is dropped: `class_` is `class`."""
    attribute_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{attribute_text}>{joined(content)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    """Parts one after the other, each escaped."""
    return Html("".join(map(escaped, parts)))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], class_: str = "plain") -> Html:
    """A table with one row of headings."""
    head = tag("thead", tag("tr", *(tag("th", heading, scope="col") for heading in headings)))
    body = tag(
        "tbody",
        *(
            tag("tr", *(tag("td", tag("div", cell), data_label=h) for h, cell in zip(headings, row, strict=True)))
            for row in rows
        ),
    )
    return tag("div", tag("table", head, body, class_=class_), class_="scroll")


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """A list of names and values; pairs without a value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    return tag("dl", *(joined((tag("dt", name), tag("dd", value))) for name, value in shown), class_="facts")


def bullets(items: Iterable[str]) -> Html:
    """A list of items."""
    return tag("ul", *(tag("li", item) for item in items))


def badge(text: str, tone: str) -> Html:
    """A word in a coloured field; `tone` is good, bad, open or calm."""
    return tag("span", text, class_=f"badge {tone}")
