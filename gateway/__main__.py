"""``python -m gateway`` is ``coe``."""

from gateway.cli import main

main()
