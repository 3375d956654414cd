"""`python -m knownas` is the `knownas` command."""

from knownas.cli import main

main()
