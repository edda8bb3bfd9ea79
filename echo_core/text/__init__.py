"""Strings to rows of token ids; no torch."""
