"""On a cluster of several nodes, each in a process of its own: kills lose nothing and store nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("chromadb")
pytest.importorskip("ray.data")

import chromadb
import ray
from ray.cluster_utils import Cluster

from echo_core import ConfigError
from echo_core.identity.document_ids import document_id
from echo_ray import EchoBatchEmbedder, Written, embed_dataset, without_stored, write_chroma

pytestmark = pytest.mark.slow

TEXTS = [f"Note {i}: the river froze twice last winter, and nobody knew why it was note {i % 7}." for i in range(3000)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with two CPUs and two nodes with two each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 200 << 20})
    for _ in range(2):
        made.add_node(num_cpus=2, object_store_memory=200 << 20)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def texts_of(count: int = len(TEXTS), blocks: int = 30) -> Any:
    table = pa.table({"text": TEXTS[:count], "number": list(range(count))})
    return ray.data.from_arrow(table).repartition(blocks)


class SlowEmbedder(EchoBatchEmbedder):
    """Says which process it is in, and takes its time, so that there is a middle to kill it in."""

    def __call__(self, batch: Any) -> pa.Table:
        table = super().__call__(batch)
        time.sleep(0.2)
        return table.append_column("process", pa.array([os.getpid()] * table.num_rows))


def embedded(config: Any, runtime: Any, actors: int) -> Any:
    given = {"config": config, "runtime": runtime, "threads": 1}
    pool = ray.data.ActorPoolStrategy(size=actors)
    options = {"compute": pool, "batch_size": 50, "num_cpus": 1}
    return texts_of().map_batches(SlowEmbedder, fn_constructor_kwargs=given, **options)


def killed_in_the_middle(dataset: Any, kill: Callable[[int], None]) -> pa.Table:
    """All rows of the dataset, during whose run the process that made the first rows was killed."""
    done: list[pa.Table] = []
    for block in dataset.iter_batches(batch_size=50, batch_format="pyarrow", prefetch_batches=0):
        if not done:
            kill(block["process"][0].as_py())
        done.append(block)
    return pa.concat_tables(done)


def check_whole(table: pa.Table, encoder: Any) -> None:
    """Every text once, with the core's vector."""
    assert sorted(table["number"].to_pylist()) == list(range(len(TEXTS)))
    order = np.argsort(table["number"].to_numpy())
    vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False))[order]
    assert np.abs(vectors - encoder.encode_documents(TEXTS)).max() <= 1e-5
    assert table["id"].to_pylist() == [document_id(text) for text in table["text"].to_pylist()]


JOB = """
    import sys, ray, pyarrow as pa
    from echo_core import EchoConfig, Runtime
    from echo_ray import embed_dataset, without_stored, write_chroma
    texts, port, name, model, template, query = eval(sys.stdin.read())
    config = EchoConfig(model, document_template=template, query_template=query, max_tokens=64)
    runtime = Runtime(device="cpu", dtype="float32")
    ray.init("local", num_cpus=2, log_to_driver=False, object_store_memory=200 << 20)
    server = {"host": "127.0.0.1", "port": port}
    rows = ray.data.from_arrow(pa.table({"text": texts})).repartition(30)
    left = without_stored(rows, server, name)
    done = write_chroma(embed_dataset(left, config, runtime, actors=1, batch_size=50), server, name, config)
    print(done.written)
"""


def test_a_job_that_was_stopped_as_a_whole_goes_on_where_it_was(config, encoder, chroma_server):
    name = f"stopped-{os.getpid()}"
    client = chromadb.HttpClient(**chroma_server)
    given = repr((TEXTS, chroma_server["port"], name, config.model, config.document_template, config.query_template))

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(JOB)]
        job = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True, start_new_session=True)
        assert job.stdin
        job.stdin.write(given)
        job.stdin.close()
        job.stdin = None
        return job

    def stored() -> int:
        names = [each.name for each in client.list_collections()]
        return client.get_collection(name, embedding_function=None).count() if name in names else 0

    first = start()
    until = time.monotonic() + 120
    while not 0 < stored() < len(TEXTS):
        assert time.monotonic() < until
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)  # the driver, Ray's processes and the actors
    first.communicate()
    before = stored()
    said, errors = start().communicate(timeout=300)
    assert said.strip().isdigit(), errors
    assert int(said) <= len(TEXTS) - before + 200  # a write that was under way may be counted once more
    found = client.get_collection(name, embedding_function=None).get(include=["documents", "embeddings"])
    assert sorted(found["documents"]) == sorted(TEXTS)
    expected = dict(zip(TEXTS, encoder.encode_documents(TEXTS), strict=True))
    assert np.abs(found["embeddings"] - np.stack([expected[text] for text in found["documents"]])).max() <= 1e-5


def test_an_actor_that_is_killed_is_replaced_and_nothing_is_lost(cluster, config, runtime, encoder):
    table = killed_in_the_middle(embedded(config, runtime, 2), lambda pid: os.kill(pid, signal.SIGKILL))
    check_whole(table, encoder)
    assert len(set(table["process"].to_pylist())) > 2


def test_embed_dataset_chooses_actors_and_bears_bad_rows(cluster, config, runtime, encoder):
    rows = pa.table({"text": pa.array(["Paris", None, "Rome"] * 50, pa.string())})
    dataset = embed_dataset(ray.data.from_arrow(rows), config, runtime, on_error="column", vector_dtype="float16")
    table = pa.concat_tables(ray.get(dataset.to_arrow_refs()))
    assert table.num_rows == 150
    assert table.schema.field("vector").type == pa.list_(pa.float16(), encoder.dimension)
    assert sum(error is not None for error in table["error"].to_pylist()) == 50
    for wrong, said in (({"actors": 0}, "actors must be"), ({"role": "poem"}, "role must be one of")):
        with pytest.raises(ConfigError, match=said):
            embed_dataset(ray.data.from_arrow(rows), config, runtime, **wrong)
    with pytest.raises(ConfigError, match="must have the column 'text', got 'body'"):
        embed_dataset(ray.data.from_arrow(rows.rename_columns(["body"])), config, runtime)


def test_rows_reach_a_chroma_server_and_a_second_run_embeds_nothing(cluster, config, runtime, encoder, chroma_server):
    collection = f"cluster-{os.getpid()}"
    rows = texts_of(500, 10)

    def run() -> Written:
        left = without_stored(rows, chroma_server, collection)
        return write_chroma(embed_dataset(left, config, runtime), chroma_server, collection, config)

    assert run() == Written(written=500)
    stored = chromadb.HttpClient(**chroma_server).get_collection(collection, embedding_function=None)
    found = stored.get(include=["documents", "metadatas", "embeddings"])
    places = [metadata["number"] for metadata in found["metadatas"]]
    assert sorted(places) == list(range(500))
    assert np.abs(found["embeddings"] - encoder.encode_documents(TEXTS[:500])[places]).max() <= 1e-5
    assert run() == Written()
    assert stored.count() == 500


def test_a_node_that_is_killed_is_done_without_and_nothing_is_lost(cluster, config, runtime, encoder):
    """The last one: the cluster is a node short after it."""

    def kill(_: int) -> None:
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)

    check_whole(killed_in_the_middle(embedded(config, runtime, 3), kill), encoder)
