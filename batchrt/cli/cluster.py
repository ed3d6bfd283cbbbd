"""The Ray cluster of `batchrt run --ray`: options that it cannot have, its start, and its errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from batchrt import RunConfig, Runnable
from batchrt.cli.cache import check_cache
from batchrt.cli.console import say
from batchrt.cli.errors import UsageError
from batchrt.cli.models import is_built_in
from batchrt.cli.options import RunSettings

if TYPE_CHECKING:
    from batchrt.integrations.ray.row_pool import RowPool

__all__ = ["check_cluster", "open_pool", "pooled_chain"]

_LOCAL: Final = "local"
_KEY: Final = "OPENAI_API_KEY"


def check_cluster(settings: RunSettings) -> RunSettings:
    """Return `settings` as they hold on every machine of the cluster that `--ray` names, if it does.

    Raises:
        UsageError: Ray is missing, or an option cannot hold there.
    """
    if settings.ray is None:
        if settings.ray_workers is not None:
            raise UsageError("--ray-workers is for a job in a Ray cluster; add --ray")
        return settings
    if any(find_spec(name) is None for name in ("ray", "pyarrow")):
        raise UsageError('--ray needs Ray: pip install "batchrt[ray]"')
    if is_built_in(settings):
        raise UsageError(
            "--ray: the built-in model mock is one of this process alone; start batchrt mock, and give its "
            "address as --base-url"
        )
    if settings.api_key is not None and settings.ray != _LOCAL:
        raise UsageError(
            f"--ray {settings.ray}: the profile's key stays on this machine; set {_KEY} in the environment "
            "of the cluster's workers, and leave key_env and key_file out of the profile"
        )
    url = settings.base_url or os.environ.get("OPENAI_BASE_URL")
    if url and settings.ray != _LOCAL and urlsplit(url).scheme == "http+unix":
        raise UsageError(
            f"--ray {settings.ray}: the socket of --base-url is of this machine alone; name an address"
        )
    return replace(settings, base_url=url)  # the workers' environment may name another


def open_pool(
    chain: Runnable[Any, Any], settings: RunSettings, journal: str | None, stack: ExitStack
) -> RowPool:
    """Return workers that run `chain`, in the cluster of `--ray`, which `stack` leaves.

    Raises:
        UsageError: there is no such cluster, or its workers cannot run the chain.
    """
    from batchrt.integrations.ray.cluster import ClusterError, joined_cluster, start_workers

    config = RunConfig(max_concurrency=settings.max_concurrency)
    if settings.cache is not None:
        check_cache(settings, journal)
        config["cache"] = str(Path(settings.cache).absolute())
    is_local = settings.ray == _LOCAL
    if is_local and settings.api_key is not None:
        stack.enter_context(_environment(_KEY, settings.api_key.get_secret_value()))
    if not settings.quiet:
        say("starting a Ray cluster on this machine" if is_local else f"joining the cluster {settings.ray}")
    try:
        stack.enter_context(joined_cluster(None if is_local else settings.ray))
    except ClusterError as error:
        hint = (
            "" if is_local else "; ray start --head starts one, and --ray alone is a cluster of this machine"
        )
        raise UsageError(f"--ray {settings.ray}: cannot join the cluster: {error}{hint}") from error
    try:
        return start_workers(chain, config, settings.ray_workers)
    except TypeError as error:  # of a model with a secret in its options
        raise UsageError(
            f"--ray: {error}; a key in --header or --base-url cannot go to the workers: put it into {_KEY} "
            "in their environment"
        ) from error
    except ClusterError as error:
        raise UsageError(
            f"--ray {settings.ray}: {error}; its machines need this version of batchrt, and {_KEY} in the "
            "environment of their workers"
        ) from error


def pooled_chain(chain: Runnable[Any, Any], pool: RowPool, settings: RunSettings) -> Runnable[Any, Any]:
    """Return `chain` as the workers of `pool` run it."""
    from batchrt.integrations.ray.row_pool import PooledChain

    return PooledChain(chain, pool, settings.max_tokens)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Have the environment variable `name` in this process, and in those that it starts."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
