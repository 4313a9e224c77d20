"""Texts that people copy into a setting or a form: what pasting adds around them is taken away."""

from __future__ import annotations

import re
import unicodedata

_QUOTES = "\"'`´\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\uff02\uff07"
# As it looks where its bytes were read as Latin-1.
_MISREAD_BYTE_ORDER_MARK = "\u00ef\u00bb\u00bf"
_QUOTED_PART_ENDS = re.compile(rf"[{_QUOTES}]\s*,\s*[{_QUOTES}]")
# Control characters, invisible ones, halves of surrogate pairs (bytes that were no UTF-8), line and paragraph ends.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def cleaned(text: str) -> str:
    """Return a pasted text without the blanks, line ends, invisible characters and quotation marks around it.

    Raises:
        ValueError: a character inside cannot belong to it; the message names the character and not the text.
    """
    bare = _without_edges(text)
    if bare and (bare[0] in _QUOTES) != (bare[-1] in _QUOTES):
        message = "there is a quotation mark at one end only"
        raise ValueError(message)
    for character in bare:
        if unicodedata.category(character) in _UNPRINTABLE:
            message = f"there is a character inside that is not printable (U+{ord(character):04X})"
            raise ValueError(message)
    return bare


def cleaned_parts(text: str) -> tuple[str, ...]:
    """Return the parts of a pasted list, which commas separate, each as `cleaned` returns it; empty ones are left out.

    Raises:
        ValueError: as of `cleaned`.
    """
    parts = (cleaned(part) for part in _without_edges(text).split(","))
    return tuple(part for part in parts if part)


def _without_edges(text: str) -> str:
    while True:
        bare = text.removeprefix(_MISREAD_BYTE_ORDER_MARK)
        start, end = 0, len(bare)
        while start < end and _is_blank(bare[start]):
            start += 1
        while end > start and _is_blank(bare[end - 1]):
            end -= 1
        bare = bare[start:end]
        if len(bare) > 1 and bare[0] in _QUOTES and bare[-1] in _QUOTES and not _QUOTED_PART_ENDS.search(bare):
            bare = bare[1:-1]
        elif bare in tuple(_QUOTES):
            bare = ""
        if bare == text:
            return bare
        text = bare


def _is_blank(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in {"Cc", "Cf"}
