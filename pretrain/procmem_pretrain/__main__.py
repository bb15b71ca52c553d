"""`python -m procmem_pretrain` is `procmem-pretrain`."""

from procmem_pretrain.cli import main

main()
