"""The fonts of figures."""

from __future__ import annotations

from matplotlib import font_manager

FALLBACKS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK KR", "Noto Sans JP", "Noto Sans SC",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "IPAGothic", "Droid Sans Fallback", "Unifont",
)  # fmt: skip
"""Fonts of letters that the first font does not have. Those that are installed are used."""


def list_fonts() -> list[str]:
    """Returns the fonts of figures. A letter is drawn in the first of them that has it."""
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in FALLBACKS if name in installed)]


def find_missing_letters(text: str) -> str:
    """Returns the letters of a text that no font has: figures show boxes in their place."""
    paths = [font_manager.findfont(name) for name in list_fonts()]
    known = {code for path in paths for code in font_manager.get_font(path).get_charmap()}
    return "".join(letter for letter in dict.fromkeys(text) if ord(letter) not in known)
