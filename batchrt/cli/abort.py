"""The reason of an aborted job, in terms of the command's options."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from batchrt import AbortPolicy, OutageError, ProviderError

__all__ = ["abort_reason"]


def abort_reason(policy: AbortPolicy) -> str:
    """Return why a job was aborted by `policy`."""
    error = policy.refusal
    if isinstance(error, OutageError):
        return "the provider was down for longer than --patience"
    if isinstance(error, ProviderError) and policy.asks_too_much(error):
        assert error.retry_after is not None
        return f"the provider asks to wait {_until(error.retry_after)}, which is more than --max-wait"
    if policy.is_wrong_address:
        return "no server answers at the provider's address"
    return "the provider refuses every request"


def _until(seconds: float) -> str:
    try:
        moment = datetime.now(UTC) + timedelta(seconds=seconds)
    except OverflowError:  # beyond the last year of the calendar
        return f"{seconds:g} s"
    return f"until {moment:%Y-%m-%d %H:%M:%S} UTC"
