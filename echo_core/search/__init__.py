"""What stands between vectors and a store: fusion of rankings, and indexes that a store does not have."""
