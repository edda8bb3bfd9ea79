"""The halves of an encoder that read its vectors as words, for people and as sparse rows."""
