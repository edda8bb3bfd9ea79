"""How good the vectors are, beside words, a trained encoder and controls."""
