"""Formulas as MathML, which browsers show without a script or a font from elsewhere."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

MARKED = re.compile(r'<(span|div) class="arithmatex">\s*(?:\\\((.*?)\\\)|\\\[(.*?)\\\])\s*</\1>', re.S)


def with_mathml(page: str) -> str:
    """A page in HTML, with MathML in place of the LaTeX that `pymdownx.arithmatex` has marked."""

    def formula(found: re.Match[str]) -> str:
        inline, display = found[2], found[3]
        if inline is not None:
            return str(convert(html.unescape(inline)))
        return f'<div class="formula">{convert(html.unescape(display), display="block")}</div>'

    return MARKED.sub(formula, page)
