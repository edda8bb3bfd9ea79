"""Attention over rows that lie end to end or below each other, one file a device."""
