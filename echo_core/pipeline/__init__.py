"""From texts to what an encoder gives: vectors, words, sparse rows."""
