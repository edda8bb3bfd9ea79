"""What the values of a config's fields may name: models trained for echo, instructions, kinds of RoPE scaling."""
