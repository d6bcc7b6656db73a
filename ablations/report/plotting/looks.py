"""The widths and the colours of figures, and how a figure is framed. It needs no matplotlib."""

from __future__ import annotations

import re
from dataclasses import dataclass

WIDE, NARROW = 7.0, 3.5
"""The widths of a page's text and of one of two columns, in inches."""

INK, GREY, LIGHT, PALE, WRONG = "#1A1A1A", "#595959", "#A6A6A6", "#E2E2E2", "#B2182B"

HUES = ("#93457F", "#E68F00", "#47B0EB", "#8C4800", "#00BF8B", "#085EC4", "#774E3B")
"""Colours that stay apart, also from INK, for readers with deuteranopia or protanopia: they differ in lightness too."""

ON_DARK = {
    INK: "#E8E8E8", "#262626": "#DCDCDC", GREY: "#B0B4BA", LIGHT: "#7A828C", PALE: "#343B44", WRONG: "#FF8A80",
    "#B0B0B0": "#59626D", "#DDDDDD": "#30363E", "#FFFFFF": "#15181C",
    **dict(zip(HUES, ("#B15A8B", "#BF7700", "#0ACBF5", "#FFE00D", "#00F285", "#1A83FF", "#A27950"), strict=True)),
}  # fmt: skip
"""For each colour of a figure its counterpart on a dark page. A colour that is not here is the same on both."""


PLAIN = re.compile("[\\x00-\u017f‐–—‘’“”†…−≈×±]*")
"""Text whose letters the first font of figures has, so that no other font matters."""


@dataclass(frozen=True)
class Look:
    """How a figure is framed: on the page of a report, or for a text that has its own caption."""

    width: float = 0.0
    """The width in inches; 0 is the figure's own."""

    bare: bool = False
    """Whether it has neither title nor small print."""


PAGE = Look()
"""The look of the figures of a report."""
