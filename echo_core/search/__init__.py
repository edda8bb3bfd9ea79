"""What stands between vectors and a store: fusion of rankings, maps to an old index, and what a store does not have."""

from echo_core.search.drift import DriftMap

__all__ = ["DriftMap"]
