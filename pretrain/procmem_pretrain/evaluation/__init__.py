"""How good a perception is: `procmem-pretrain evaluate`.

`datasets.py` finds what to measure on, `methods.py` what is measured; each task has a module:
`classification.py` (k-NN and linear), `similarity.py`, `segmentation.py`, `privacy.py`. `suite.py`
runs every method on every task that a data set allows, `report.py` writes tables and figures.
Real images are only ever measured on; nothing here changes a weight (law 3).
"""
