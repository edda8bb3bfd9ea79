"""What a model and a space are: files, hashes, fingerprints; no torch."""
