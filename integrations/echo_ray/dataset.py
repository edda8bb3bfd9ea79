"""The common case: a dataset embedded by as many actors as the cluster has room for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.data import ActorPoolStrategy, Dataset

from echo_core import ConfigError, EchoConfig, Runtime
from echo_core.config import checked_runtime
from echo_core.errors import check_integer
from echo_core.identity.checkpoint import with_absolute_model
from echo_core.identity.presets import config_of
from echo_ray.columns import Columns
from echo_ray.embedder import EchoBatchEmbedder, check_options

THREADS = 4  # of an actor on CPUs: more share one batch badly, fewer hold the weights in memory more often
BATCH = {"cpu": 1024, "gpu": 8192}  # texts handed to an actor at a time: what a kill can cost


@dataclass(frozen=True)
class Plan:
    """How many actors, and what each of them takes of a node."""

    actors: int
    gpus: int
    threads: int | None  # of torch; None: as Ray and torch choose
    batch_size: int

    def resources(self) -> dict[str, float]:
        """What an actor reserves: a GPU, or one CPU fewer than its threads, so that reading and writing find room."""
        return {"num_gpus": self.gpus} if self.gpus else {"num_cpus": (self.threads or 1) - 1}


def plan(cpus: Sequence[float], gpus: Sequence[float], actors: int | None = None, threads: int | None = None) -> Plan:
    """One actor a GPU; without GPUs as many of up to ``THREADS`` threads as the nodes' CPUs hold.

    Two actors never share a core: each would wait for the other's threads at every step.

    Args:
        cpus: of each node.
        gpus: of each node.
        actors: how many; None: as many as there is room for.
        threads: of each; None: as many as there is room for.

    Raises:
        ConfigError: the cluster has neither.
    """
    if (devices := int(sum(gpus))) > 0:
        return Plan(actors or devices, 1, threads, BATCH["gpu"])
    cores = [int(count) for count in cpus if count >= 1]
    if not cores:
        raise ConfigError("the cluster must have a node with a CPU or a GPU; start Ray with num_cpus of at least 1")
    room = THREADS if actors is None else max(1, sum(cores) // actors)
    each = threads or min(room, *cores)
    return Plan(actors or max(1, sum(count // each for count in cores)), 0, each, BATCH["cpu"])


def embed_dataset(
    dataset: Dataset,
    config: EchoConfig | str | os.PathLike[str] | None = None,
    runtime: Runtime | None = None,
    columns: Columns | None = None,
    *,
    actors: int | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    ray_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """The dataset with the columns that ``EchoBatchEmbedder`` adds; lazy, as all of Ray Data.

    Args:
        dataset: with a column of texts.
        config: a whole EchoConfig, a model's name, folder or file that every node can reach, or None for the embedded
            default model.
        runtime: how vectors are computed.
        columns: what the dataset's columns are called.
        actors: processes that hold the model; None: by the cluster's GPUs or CPUs, see ``plan``.
        threads: of torch in each of them; None: by the cluster.
        batch_size: texts handed to an actor at a time; None: 1,024 on CPUs, 8,192 on GPUs.
        ray_options: further ones of ``map_batches``, as ``compute``, which go before those that are chosen here.
        **options: ``role``, ``vector_dtype`` and ``on_error`` of ``EchoBatchEmbedder``.

    Raises:
        ConfigError: an option is wrong, or a column that is known to be missing; nothing has run yet.
        TypeError: no dataset of Ray, or an option that does not exist.
    """
    check_dataset(dataset)
    _check_numbers(actors=actors, threads=threads, batch_size=batch_size)
    names, settled, how = columns or Columns(), settle(config), checked_runtime(runtime)
    check_options(settled, names, **options)
    if (schema := dataset.schema(fetch_if_missing=False)) is not None:
        names.check(schema.names)
    chosen = plan(*_nodes(), actors, threads)
    if batch_size is not None:
        chosen = replace(chosen, batch_size=batch_size)
    given = {"config": settled, "runtime": how, "columns": names, "threads": chosen.threads, **options}
    return _embedded(dataset, given, chosen, ray_options or {})


def _embedded(dataset: Dataset, stage: dict[str, Any], plan: Plan, ray_options: Mapping[str, Any]) -> Dataset:
    """The dataset through the stage, in blocks of one batch.

    So an actor's work is written, or lost in a kill, batch by batch, however large the files were.
    """
    options: dict[str, Any] = {"compute": ActorPoolStrategy(size=plan.actors), "batch_size": plan.batch_size}
    options |= {"batch_format": "pyarrow", **plan.resources(), **ray_options, "fn_constructor_kwargs": stage}
    return dataset.repartition(target_num_rows_per_block=plan.batch_size).map_batches(EchoBatchEmbedder, **options)


def check_dataset(dataset: object) -> None:
    """Return if it is a dataset of Ray Data. Raises TypeError if not."""
    if not isinstance(dataset, Dataset):
        kind = type(dataset).__name__
        raise TypeError(
            f"dataset must be a ray.data.Dataset, got {kind}; ray.data.from_items([{{'text': …}}]) makes one"
        )


def settle(config: EchoConfig | str | os.PathLike[str] | None) -> EchoConfig:
    """The whole config, a local model's path absolute: the actors have other working directories."""
    return with_absolute_model(config_of(config))


def _check_numbers(**given: int | None) -> None:
    for name, value in given.items():
        if value is not None:
            check_integer(name, value, 1)


def _nodes() -> tuple[list[float], list[float]]:
    """CPUs and GPUs of each living node."""
    if not ray.is_initialized():
        ray.init()
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [node.get("CPU", 0) for node in resources], [node.get("GPU", 0) for node in resources]
