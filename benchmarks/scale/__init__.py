"""What `bench_scale.py` does: `steps.py` measures vaults, `report.py` writes it down."""
