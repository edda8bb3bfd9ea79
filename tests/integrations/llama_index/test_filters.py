"""Filters on metadata through LlamaIndex's store, and through a drift map."""

import chromadb
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from echo_core.search import DriftMap
from llama_index.embeddings.echo import EchoEmbedding
from llama_index.embeddings.echo.chroma import open_chroma_vector_store

TEXTS = [f"{thing} number {number}" for number in range(6) for thing in ("a tide", "some soap", "thick fog", "a road")]


@pytest.fixture
def client(tmp_path, embed_model):
    made = chromadb.PersistentClient(tmp_path / "store")
    context = StorageContext.from_defaults(vector_store=open_chroma_vector_store(embed_model, made, "notes"))
    nodes = [TextNode(text=text, metadata={"page": n // 4, "kind": text.split()[1]}) for n, text in enumerate(TEXTS)]
    VectorStoreIndex(nodes, storage_context=context, embed_model=embed_model)
    return made


FILTERS = MetadataFilters(
    filters=[
        MetadataFilter(key="kind", value="fog"),
        MetadataFilter(key="page", value=4, operator=FilterOperator.GTE),
    ],
    condition=FilterCondition.AND,
)


@pytest.mark.parametrize("drifted", [False, True])
async def test_a_retriever_finds_only_what_the_filters_leave(embed_model, options, client, drifted):
    model, drift = embed_model, None
    if drifted:
        model = EchoEmbedding(**{**options, "layer": -2})
        drift = DriftMap.fit(model.encoder, embed_model.encoder, TEXTS)
    store = open_chroma_vector_store(model, client, "notes", drift=drift)
    index = VectorStoreIndex.from_vector_store(store, embed_model=model)
    retriever = index.as_retriever(similarity_top_k=10, filters=FILTERS)
    for found in (retriever.retrieve("fog"), await retriever.aretrieve("fog")):
        assert sorted(hit.metadata["page"] for hit in found) == [4, 5]
        assert {hit.metadata["kind"] for hit in found} == {"fog"}
