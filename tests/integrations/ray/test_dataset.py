"""Actors by what the cluster has."""

from __future__ import annotations

import pytest

from echo_core import ConfigError, EchoConfig
from echo_ray import embed_dataset, without_stored, write_chroma
from echo_ray.dataset import Plan, _embedded, plan


@pytest.mark.parametrize(
    ("cpus", "gpus", "wish", "actors", "threads"),
    [
        ([2], [0], {}, 1, 2),  # a laptop: one actor with both cores
        ([2], [0], {"actors": 2}, 2, 1),
        ([1], [0], {}, 1, 1),
        ([16], [0], {}, 4, 4),
        ([4, 8], [0, 0], {}, 3, 4),
        ([0, 8], [0, 0], {}, 2, 4),  # a head without CPUs
        ([16], [0], {"threads": 8}, 2, 8),
        ([2], [0], {"threads": 4}, 1, 4),
        ([64, 64], [8, 8], {}, 16, None),
        ([64], [8], {"actors": 2, "threads": 6}, 2, 6),
    ],
)
def test_an_actor_a_gpu_or_as_many_of_four_threads_as_there_is_room_for(cpus, gpus, wish, actors, threads):
    found = plan(cpus, gpus, **wish)
    assert (found.actors, found.threads) == (actors, threads)
    assert found.gpus == (1 if sum(gpus) else 0)


def test_actors_leave_a_cpu_for_reading_and_writing():
    assert plan([2], [0]).resources() == {"num_cpus": 1}
    assert plan([1], [0]).resources() == {"num_cpus": 0}
    assert plan([2], [1]).resources() == {"num_gpus": 1}
    found = plan([4], [0])
    assert found.actors * found.resources()["num_cpus"] < 4


def test_a_cluster_with_nothing_is_refused():
    with pytest.raises(ConfigError, match="must have a node with a CPU or a GPU"):
        plan([0], [0])
    assert Plan(1, 0, 4, 8).resources() == {"num_cpus": 3}


class Asked:
    """Stands in for a dataset: the options that map_batches is called with."""

    def repartition(self, **options):
        return self

    def map_batches(self, stage, **options):
        return options


def test_options_of_ray_go_before_those_that_are_chosen():
    """``compute`` or ``batch_size`` among them was "got multiple values for keyword argument"."""
    given = {"compute": "a pool", "batch_size": 7, "num_cpus": 3, "fn_constructor_kwargs": {}}
    options = _embedded(Asked(), {"threads": 1}, plan([2], [0]), given)
    assert (options["compute"], options["batch_size"], options["num_cpus"]) == ("a pool", 7, 3)
    assert options["batch_format"] == "pyarrow"
    assert options["fn_constructor_kwargs"] == {"threads": 1}  # the stage's own


def test_what_is_no_dataset_and_no_settings_is_refused():
    """A list had no attribute "schema", and a server's address none "get"."""
    with pytest.raises(TypeError, match=r"dataset must be a ray\.data\.Dataset, got list"):
        embed_dataset(["a text"])
    with pytest.raises(TypeError, match=r"dataset must be a ray\.data\.Dataset, got list"):
        without_stored(["a text"], {"host": "nowhere"}, "notes")
    with pytest.raises(TypeError, match=r"settings must be arguments of chromadb\.HttpClient, as .*, got str"):
        write_chroma(None, "nowhere:8000", "notes", EchoConfig())
