"""The model card of a saved model: what to install, how to load it, and which templates it says its texts with."""

from __future__ import annotations

import re
from pathlib import Path

from echo_core.config import EchoConfig

INSTALL = "pip install 'echo-embed[sentence-transformers]'"
_IMPORT = "from echo_sentence_transformers import {ours}"
_CHANGES = {  # what sentence-transformers writes → what holds for an echo model
    r"pip install (-U )?sentence-transformers": INSTALL,
    r"First install the Sentence Transformers library": "First install echo-embed, which brings that library along",
    r"from sentence_transformers import {theirs}\b": _IMPORT,
    r"(?<![A-Za-z.]){theirs}\((?=[\"'])(?!.*trust_remote_code)": "{ours}(",
}
_TITLE = "## Echo embeddings"
_SECTION = """{title}

This model makes echo embeddings ([arXiv 2402.15449](https://arxiv.org/abs/2402.15449)): each text is said to a causal
language model inside a template, and only the part in double brackets is pooled. Install and load it so:

```bash
{install}
```
```python
{load}

model = {ours}("{name}")
queries = model.encode_query(["..."])
documents = model.encode_document(["..."])
```
Plain Sentence Transformers, and tools that load models by name, refuse it unless they are told to trust the modules of
the installed echo-embed: `{theirs}("{name}", trust_remote_code=True)`. Long texts are cut there, and read in
windows here.

Queries are said as

```text
{query}
```
and documents, like texts given to `encode`, as

```text
{document}
```

"""


def rewrite_card(path: Path, echo: EchoConfig, ours: str = "EchoSentenceTransformer") -> None:
    """Change the card that sentence-transformers wrote for a class of ours, once; nothing if there is none."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    names = {"ours": ours, "theirs": ours.removeprefix("Echo")}
    for pattern, replacement in _CHANGES.items():
        text = re.sub(pattern.replace("{theirs}", names["theirs"]), replacement.format(**names), text)
    if _TITLE not in text:
        found = re.search(ours + r"\([\"']([^\"']+)", text)
        said = {**names, "query": echo.query_template, "document": echo.document_template}
        name = found.group(1) if found else "this/model"
        section = _SECTION.format(title=_TITLE, install=INSTALL, load=_IMPORT.format(**names), name=name, **said)
        before, heading, rest = text.partition("## Model Details")
        text = before + section + heading + rest
    path.write_text(text, encoding="utf-8")
