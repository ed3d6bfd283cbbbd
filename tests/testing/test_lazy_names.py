from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

import batchrt.testing


def test_public_names_are_importable_and_documented() -> None:
    """All of `__all__`; classes and functions have a docstring."""
    assert batchrt.testing.__all__ == sorted(batchrt.testing.__all__)
    assert set(batchrt.testing.__all__) <= set(dir(batchrt.testing))
    for name in batchrt.testing.__all__:
        value = getattr(batchrt.testing, name)
        if isinstance(value, type | types.FunctionType):
            assert value.__doc__, name
            assert value.__module__.startswith("batchrt.testing."), name


def test_public_names_in_all_are_exact() -> None:
    """It equals the lazy table."""
    assert set(batchrt.testing._HOMES) == set(batchrt.testing.__all__)


def test_public_names_unknown_raise_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = batchrt.testing.Nonsense


def test_public_names_need_neither_httpx_nor_uvicorn() -> None:
    """A provider and its plan can be made without either; only their users import them."""
    program = (
        "import sys; from batchrt.testing import *; "
        "from batchrt.testing.provider import MockProvider; MockProvider(); "
        "print('uvicorn' in sys.modules)"
    )
    root = str(Path(batchrt.testing.__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": root, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.strip() == "False"
