"""The fixtures of the pytest plugin; they come by themselves where batchrt is installed."""

from __future__ import annotations

from batchrt.testing.pytest_plugin import mock_provider, mock_server

__all__ = ["mock_provider", "mock_server"]
