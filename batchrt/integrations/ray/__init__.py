"""Ray Data: a dataset mapped with a chain, under limits that hold for the whole cluster.

    from batchrt.integrations.ray import map_dataset

    answers = map_dataset(ray.data.read_parquet("tickets/"), chain, concurrency=4)
    answers.write_parquet("answers/")

Needs the extra `batchrt[ray]`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchrt.integrations.ray.dataset import map_dataset
    from batchrt.integrations.ray.worker import ChainMapper

__all__ = ["ChainMapper", "map_dataset"]

# `ChainMapper` can be used and tested without Ray.
_HOMES = {"ChainMapper": "worker", "map_dataset": "dataset"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"ray", "pyarrow"}:
            raise ImportError(f"{name} needs Ray Data: install batchrt[ray]", name=error.name) from error
        raise


def __dir__() -> list[str]:
    return __all__
