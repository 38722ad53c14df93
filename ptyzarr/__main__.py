"""``python -m ptyzarr`` is the command line."""

from ptyzarr.cli import main

main()
