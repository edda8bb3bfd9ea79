"""The best configuration for a user's own model and data."""
