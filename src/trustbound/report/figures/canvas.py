"""From a matplotlib drawing to an inline SVG that follows the page's colours and fonts.

Nothing global is left changed: figures are built without pyplot, inside a style context that starts from
matplotlib's defaults. The same drawing gives the same bytes: fixed hash salt, no date. Text stays text, so
that it can be read aloud, searched and enlarged. One drawing unit is one CSS pixel.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias
from xml.etree import ElementTree

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from trustbound.report.figures.palette import TILES, colour, role_of, variables
from trustbound.report.wording import legible

#: Text sizes in CSS pixels; nothing in a figure is smaller than the second.
TEXT, SMALL = 13.0, 12.5
FONTS = '"Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif'

Drawing: TypeAlias = Callable[[Figure], None]

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": TEXT,
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "axes.edgecolor": colour("muted"),
    "axes.labelcolor": colour("muted"),
    "axes.labelsize": TEXT,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": colour("ink"),
    "xtick.color": colour("muted"),
    "ytick.color": colour("muted"),
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 1.0,
    "ytick.major.width": 1.0,
    "grid.color": colour("rule"),
    "grid.linewidth": 0.8,
    "hatch.linewidth": 1.2,
    "lines.linewidth": 2.0,
}


def picture(
    draw: Drawing,
    *,
    name: str,
    title: str,
    description: str,
    width: float,
    height: float,
    standalone: bool = False,
) -> str:
    """Draw and return the SVG text, with title and description as its alternative text.

    Parameters
        name        prefix of every id in the drawing; must be unique on a page.
        width, height       CSS pixels.
        standalone  a file of its own: carries name space, colours for light and dark, and paper.

    >>> text = picture(lambda figure: None, name="empty", title="Nothing", description="No marks.",
    ...     width=100, height=50)
    >>> text.startswith('<svg viewBox="0 0 100 50" role="img" aria-labelledby="empty-title empty-description"')
    True
    """
    settings: Any = ["default", {**_STYLE, "svg.hashsalt": name}]
    with style.context(settings), warnings.catch_warnings():
        # The browser chooses the font; that matplotlib's own lacks a glyph does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width / 72.0, height / 72.0), dpi=72)
        FigureCanvasSVG(figure)
        draw(figure)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    _tidy(root, name)
    body = "".join(_text_of(child) for child in root)
    head = (
        f'viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-labelledby="{name}-title {name}-description" class="figure"'
    )
    words = (
        f'<title id="{name}-title">{_escaped(title)}</title>'
        f'<desc id="{name}-description">{_escaped(description)}</desc>'
    )
    if not standalone:
        return f'<svg {head} style="max-width:{width:g}px">{words}{body}</svg>'
    sheet_style = (
        f"<style>svg{{{variables('light')};font-family:{FONTS}}}"
        f"@media (prefers-color-scheme:dark){{svg{{{variables('dark')}}}}}</style>"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" {head}>'
        f'{words}{sheet_style}<rect width="100%" height="100%" style="fill:var(--paper)"/>{body}</svg>\n'
    )


def sheet(figure: Figure, width: float, height: float) -> Axes:
    """Axes over the whole drawing, in pixels from the top left corner, without any frame."""
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0.0, width)
    axes.set_ylim(height, 0.0)
    axes.set_axis_off()
    return axes


def panel(figure: Figure, size: tuple[float, float], *, left: float, top: float, width: float, height: float) -> Axes:
    """Axes whose frame lies at these pixels of a drawing of this size."""
    axes = figure.add_axes((left / size[0], 1.0 - (top + height) / size[1], width / size[0], height / size[1]))
    axes.tick_params(length=4)
    return axes


def label(text: str, limit: int = 60) -> str:
    """A name from the record as it may stand in a drawing."""
    return legible(text, limit)


def _tidy(root: ElementTree.Element, name: str) -> None:
    """Name spaces, metadata, fonts and fixed colours out; own ids and CSS variables in."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    used = _references(root)
    for pattern in list(root.iter()):
        if pattern.tag.endswith("}pattern"):
            _hatch(pattern)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text = element.text if element.tag == "text" else None
        element.tail = None
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            plain = key.rpartition("}")[2]
            if plain == "id":
                if value in used:
                    element.set("id", f"{name}-{value}")
            elif plain == "href":
                element.set("href", value.replace("#", f"#{name}-", 1))
            elif plain == "style":
                element.set("style", _style(value, name))
            elif plain in ("fill", "stroke"):
                element.set("style", _style(f"{plain}:{value}", name))
            elif plain == "clip-path":
                element.set(plain, value.replace("url(#", f"url(#{name}-", 1))
            elif plain == "transform" and value.startswith("rotate(-0 "):
                continue
            else:
                element.set(plain, re.sub(r"\s+", " ", value).strip())


def _hatch(pattern: ElementTree.Element) -> None:
    """Write a hatching as one small tile: matplotlib's own holds hundreds of strokes."""
    face = next((each.get("fill", "") for each in pattern if each.tag.endswith("rect")), "")
    role = role_of(face) or ""
    if role not in TILES:
        return
    for child in list(pattern):
        pattern.remove(child)
    pattern.set("width", "8")
    pattern.set("height", "8")
    ElementTree.SubElement(pattern, "rect", {"width": "8", "height": "8", "style": f"fill:{face}"})
    stroke = colour(f"{role}-stripe")
    ElementTree.SubElement(
        pattern,
        "path",
        {"d": TILES[role], "style": f"fill:none;stroke:{stroke};stroke-width:1.3;stroke-linecap:round"},
    )


def _references(root: ElementTree.Element) -> set[str]:
    """The ids that something in the drawing points to."""
    found: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith("href"):
                found.add(value.lstrip("#"))
            found.update(re.findall(r"url\(#([^)]+)\)", value))
    return found


def _style(declarations: str, name: str) -> str:
    """Style declarations with roles for placeholder colours and without a font family of their own."""
    kept = []
    for declaration in declarations.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key in ("font-family", ""):
            continue
        if key == "font":  # "bold 13px 'DejaVu Sans', …": weight and size stay
            size = re.search(r"([\d.]+)px", value)
            kept += ["font-weight:600"] if "bold" in value or re.match(r"[6-9]00\b", value) else []
            kept += [f"font-size:{size.group(1)}px"] if size else []
            continue
        role = role_of(value)
        value = f"var(--{role})" if role else value.replace("url(#", f"url(#{name}-")
        kept.append(f"{key}:{value}")
    return ";".join(kept)


def _text_of(element: ElementTree.Element) -> str:
    """An element as text, without groups that only wrap others."""
    if element.tag == "g" and not element.attrib:
        return "".join(_text_of(child) for child in element)
    if element.tag == "defs" and not len(element):
        return ""
    return ElementTree.tostring(element, encoding="unicode")


def _escaped(text: str) -> str:
    """Text as character data of SVG."""
    return legible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
