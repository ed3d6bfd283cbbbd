from __future__ import annotations

from typing import Any

import pytest

# The mock provider's own fixtures; where batchrt is installed they come as a plugin.
from batchrt.testing.pytest_plugin import mock_provider, mock_server

__all__ = ["anyio_backend", "mock_provider", "mock_server"]


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False, "debug": True}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param
