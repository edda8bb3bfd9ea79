"""Texts as a heat map in HTML: each token's background is as strong as its share of a score."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Share = tuple[str, float]  # a token and what it adds to a score

# A share is drawn over whatever page it stands on, by a colour of some opacity: no colour of its own for text or page.
_STYLE = """
.echo-map{font:16px/1.9 system-ui,sans-serif;max-width:46rem;color-scheme:light dark}
.echo-map h4{font-size:.8rem;margin:.9em 0 .2em;text-transform:uppercase;letter-spacing:.06em;opacity:.75}
.echo-map p{margin:0;overflow-wrap:anywhere}.echo-map mark{color:inherit;border-radius:3px;padding:.1em 0}
""".replace("\n", "")
_MORE, _LESS = "230, 126, 34", "52, 120, 219"  # of the colours of shares above and below 0
_STRONGEST = 0.7  # opacity


def draw(parts: Sequence[tuple[str, Sequence[Share] | str]]) -> str:
    """One HTML element with its own style; texts are escaped, nothing is loaded, no script runs.

    Args:
        parts: headings, each with tokens and their shares to mark, or with a line of plain text.
    """
    drawn = (f"<h4>{escape(heading)}</h4><p>{_paragraph(content)}</p>" for heading, content in parts)
    return f'<section class="echo-map"><style>{_STYLE}</style>{"".join(drawn)}</section>'


def _paragraph(content: Sequence[Share] | str) -> str:
    return escape(content) if isinstance(content, str) else _marked(content)


def _marked(shares: Sequence[Share]) -> str:
    """The tokens in order, each over the colour of its share, which a pointer held over it tells."""
    strongest = max((abs(share) for _, share in shares), default=0.0) or 1.0
    return "".join(_mark(token, share, share / strongest) for token, share in shares)


def _mark(token: str, share: float, strength: float) -> str:
    if not token.strip():
        return escape(token)
    space = token[: len(token) - len(token.lstrip())]
    colour = f"rgba({_MORE if strength > 0 else _LESS}, {_STRONGEST * abs(strength):.2f})"
    return f'{escape(space)}<mark style="background:{colour}" title="{share:+.4f}">{escape(token.lstrip())}</mark>'
