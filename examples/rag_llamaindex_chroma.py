"""Retrieval with LlamaIndex and Chroma: index a folder of documents, ask 40 questions, print what is found.

pip install 'echo-embed[llama-index,chroma]' llama-index-vector-stores-chroma
python examples/rag_llamaindex_chroma.py
python examples/rag_llamaindex_chroma.py --index my-index --model HuggingFaceTB/SmolLM2-135M
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

try:
    from llama_index.core import Settings, VectorStoreIndex
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import TextNode

    from echo_chroma import document_id
    from llama_index.embeddings.echo import EchoEmbedding
    from llama_index.embeddings.echo.chroma import open_chroma_vector_store
except ImportError as error:
    packages = "'echo-embed[llama-index,chroma]' llama-index-vector-stores-chroma"
    sys.exit(f"{error}\nThis example needs: pip install {packages}")

DATA = Path(__file__).parent / "data"


def main(arguments: Sequence[str] | None = None) -> None:
    """Index, ask, print."""
    options = parse(arguments)
    Settings.embed_model = EchoEmbedding(model_name=options.model)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        index = build_index(options.index or temporary, DATA / "documents")
        ask_all(index.as_retriever(similarity_top_k=3), DATA / "questions.jsonl")


def build_index(place: str, folder: Path) -> VectorStoreIndex:
    """The index over the folder's documents, one node each; a file that is stored already is not embedded again."""
    # Opened with another model than it was made with, this raises EmbeddingSpaceMismatch.
    store = open_chroma_vector_store(Settings.embed_model, place, "documents")
    index = VectorStoreIndex.from_vector_store(store)
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}
    nodes = [TextNode(id_=document_id(text, name), text=text, metadata={"file": name}) for name, text in texts.items()]
    for node in nodes:
        node.excluded_embed_metadata_keys = ["file"]  # else the file's name is said along with the text
    stored = set(store.client.get([node.node_id for node in nodes], include=[])["ids"])
    new = [node for node in nodes if node.node_id not in stored]
    index.insert_nodes(new)
    print(f"Indexed {len(new)} new documents, {len(nodes)} in all.\n")
    return index


def ask_all(retriever: BaseRetriever, path: Path) -> None:
    """Print the first hit of every question, and the share of right ones."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    first = within = 0
    for line in lines:
        hits = [hit.node.metadata["file"] for hit in retriever.retrieve(line["question"])]
        first, within = first + (hits[0] == line["document"]), within + (line["document"] in hits)
        verdict = "right" if hits[0] == line["document"] else f"wrong, wanted {line['document']}"
        print(f"{line['question']}\n   → {hits[0]} ({verdict})")
    print(f"\nThe right document comes first for {first} of {len(lines)} questions, in the first three for {within}.")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", help="folder that keeps the index (default: a temporary one)")
    parser.add_argument("--model", help="causal model that embeds (default: the one that comes with echo-embed)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
