import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("specimens", Path(__file__).with_name("specimens.py"))
specimens_module = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(specimens_module)


@pytest.fixture(scope="session")
def specimens():
    """Builders of records to lay out."""
    return specimens_module
