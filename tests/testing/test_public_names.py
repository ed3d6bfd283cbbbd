from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

import batchrt.testing


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    """`__all__` holds what can be imported; classes and functions are documented."""
    assert batchrt.testing.__all__ == sorted(batchrt.testing.__all__)
    assert set(batchrt.testing.__all__) <= set(dir(batchrt.testing))
    for name in batchrt.testing.__all__:
        value = getattr(batchrt.testing, name)
        if isinstance(value, type | types.FunctionType):
            assert value.__doc__, name
            assert value.__module__.startswith("batchrt.testing."), name


def test_all_is_exact() -> None:
    """Nothing public is left out of `__all__`: it is what the lazy table knows."""
    assert set(batchrt.testing._HOMES) == set(batchrt.testing.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = batchrt.testing.Nonsense


def test_the_names_need_neither_httpx_nor_uvicorn() -> None:
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
