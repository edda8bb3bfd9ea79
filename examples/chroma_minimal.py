"""Chroma in five calls: open a collection, add documents, ask, count what a synchronisation would do, do it."""

from tempfile import TemporaryDirectory

from echo_chroma import add_documents, open_collection, sync_documents

TEXTS = ["Honeybees shiver to keep the hive warm.", "Fog is a cloud that touches the ground."]
SOURCES = [{"source": "bees.md"}, {"source": "fog.md"}]

with TemporaryDirectory() as folder:  # your index is kept: open_collection("index", "notes")
    notes = open_collection(folder, "notes")  # or open_collection(a Chroma client, "notes", "org/model")

    print(add_documents(notes, TEXTS, SOURCES))  # what is there already is not embedded again

    found = notes.query(query_texts=["How do insects survive the winter?"], n_results=1)
    print(found["documents"][0][0], found["metadatas"][0][0])

    now = ["Fog is a cloud on the ground.", "Bread rises because yeast makes gas."]
    print(sync_documents(notes, now, [{"source": "fog.md"}, {"source": "bread.md"}], dry_run=True))

    print(sync_documents(notes, now, [{"source": "fog.md"}, {"source": "bread.md"}]))
