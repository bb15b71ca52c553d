"""`python -m procmem` is `procmem`."""

from procmem.cli import main

main()
