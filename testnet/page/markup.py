"""HTML and SVG in which every text is escaped: only what these functions made counts as markup."""

from html import escape


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An element. A trailing underscore of an attribute falls away, others become hyphens; None leaves it out.

    >>> element("p", "a < b", element("b", "c"), class_="x", data_name='"')
    '<p class="x" data-name="&quot;">a &lt; b<b>c</b></p>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """Children side by side."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))
