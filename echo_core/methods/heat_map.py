"""An explanation as a heat map in HTML: each word's background is as strong as its share of the score."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echo_core.methods.explanation import Explanation, Share

# A share is drawn over whatever page it stands on, by a colour of some opacity: no colour of its own for text or page.
_STYLE = """
.echo-map{font:16px/1.9 system-ui,sans-serif;max-width:46rem;color-scheme:light dark}
.echo-map h4{font-size:.8rem;margin:.9em 0 .2em;text-transform:uppercase;letter-spacing:.06em;opacity:.75}
.echo-map p{margin:0;overflow-wrap:anywhere}.echo-map mark{color:inherit;border-radius:3px;padding:.1em 0}
""".replace("\n", "")
_MORE, _LESS = "230, 126, 34", "52, 120, 219"  # of the colours of shares above and below 0
_STRONGEST = 0.7  # opacity


def draw(explanation: Explanation) -> str:
    """The explanation as one HTML element with its own style; texts are escaped, nothing is loaded, no script runs."""
    common = ", ".join(map(escape, explanation.words_in_common)) or "none"
    parts = [
        f"<h4>Score {explanation.score:.3f}</h4>",
        f"<h4>Query</h4><p>{_marked(explanation.query_shares)}</p>",
        f"<p>reads as: {_words(explanation.query_words)}</p>",
        f"<h4>Document</h4><p>{_marked(explanation.document_shares)}</p>",
        f"<p>reads as: {_words(explanation.document_words)}</p>",
        f"<h4>In common</h4><p>{common}</p>",
    ]
    return f'<section class="echo-map"><style>{_STYLE}</style>{"".join(parts)}</section>'


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


def _words(words: Sequence[object]) -> str:
    return ", ".join(escape(str(getattr(word, "word", word))) for word in words)
