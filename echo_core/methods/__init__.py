"""What papers do to texts, states and vectors: one method a file."""
