"""ChainMapper: the class that `Dataset.map_batches` makes an instance of in each worker."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import pyarrow as pa

from batchrt.config import RunConfig
from batchrt.integrations.ray.columns import InputColumns, InputLike, OutputColumns, OutputLike
from batchrt.integrations.ray.row_run import RowRun
from batchrt.integrations.ray.run_share import RunCarrier, RunShare
from batchrt.limits.registry import share_quotas
from batchrt.runtime.outcome import Outcome

if TYPE_CHECKING:
    from batchrt.runnables.base import Runnable

__all__ = ["ChainMapper", "SecretProvider"]

SecretProvider: TypeAlias = Callable[[], Mapping[str, str]]
"""Returns environment variables, such as `OPENAI_API_KEY`; called in each worker."""


class ChainMapper:
    """Map blocks of rows with a chain, for `Dataset.map_batches`; see `map_dataset` for the arguments.

        ds.map_batches(
            ChainMapper,
            fn_constructor_args=(chain,),
            batch_format="pyarrow",
            batch_size=None,
            compute=ActorPoolStrategy(
                size=4, max_concurrent_calls_per_actor=4, enable_true_multi_threading=True
            ),
        )

    Its calls, which may be concurrent, share one run.

    Args:
        chain: the chain, or its pickle, which is loaded once the secrets are in the environment.
        input: see `map_dataset`.
        output_columns: likewise.
        prefix: likewise.
        config: of the run.
        secrets: likewise.
        carrier: of the messages by which workers share the quotas of their models, and the slots and budget
            of `config`; `None` for a worker that shares none.
        run: tells runs apart that use the same carrier.
    """

    def __init__(
        self,
        chain: Runnable[Any, Any] | bytes,
        *,
        input: InputLike = None,  # noqa: A002  as for `invoke`
        output_columns: OutputLike = "output",
        prefix: str = "",
        config: RunConfig | None = None,
        secrets: SecretProvider | None = None,
        carrier: RunCarrier | None = None,
        run: str = "",
    ) -> None:
        if carrier is not None:
            share_quotas(carrier)
        if secrets is not None:
            os.environ.update(secrets())
        loaded: Any = pickle.loads(chain) if isinstance(chain, bytes) else chain  # noqa: S301  made by `map_dataset`
        self._inputs = InputColumns(input)
        self._outputs = OutputColumns(output_columns, prefix)
        checked = config or RunConfig()
        share = None if carrier is None else RunShare(carrier, run, checked)
        self._run = RowRun(cast("Runnable[Any, Any]", loaded), checked, share)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return `block` with the outcomes of its rows as further columns.

        Raises:
            TypeError: the block is no Arrow table.
            ValueError: it has one of those columns already.
        """
        if not isinstance(block, pa.Table):
            raise TypeError(
                f'ChainMapper takes Arrow tables: give map_batches batch_format="pyarrow", not {block!r:.80}'
            )
        self._outputs.check(block.column_names)
        values = self._inputs.values(block)
        sent = iter(self._run.outcomes([value for value in values if not isinstance(value, Exception)]))
        outcomes = [_failed(value) if isinstance(value, Exception) else next(sent) for value in values]
        return self._outputs.added(block, outcomes)

    def close(self) -> None:
        """End the run, once its calls have returned."""
        self._run.close()


def _failed(error: Exception) -> Outcome[Any]:
    return Outcome(0, None, error, 0, 0.0, None)
