"""How fast echo is, against what users would pick instead."""
