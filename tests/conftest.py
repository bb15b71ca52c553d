"""In which order the tests run."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The one long file that would come last comes first, or a core would wait for another's."""
    items.sort(key=lambda item: item.path.parent.name != "stress")
