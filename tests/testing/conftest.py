"""The mock provider's own fixtures; where batchrt is installed they come as a plugin."""

from __future__ import annotations

from batchrt.testing.pytest_plugin import mock_provider, mock_server

__all__ = ["mock_provider", "mock_server"]
