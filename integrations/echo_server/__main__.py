"""``python -m echo_server`` is the command ``echo-server``."""

from echo_server.command import main

main()
