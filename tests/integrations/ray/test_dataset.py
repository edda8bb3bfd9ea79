"""Actors by what the cluster has."""

from __future__ import annotations

import pytest

from echo_core import ConfigError
from echo_ray.dataset import Plan, plan


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
