"""Datasets of Ray Data, mapped with a chain."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
from ray import cloudpickle
from ray.data import ActorPoolStrategy

from batchrt.config import RunConfig, check_config
from batchrt.integrations.ray.columns import InputColumns, InputLike, OutputColumns, OutputLike
from batchrt.integrations.ray.coordinator import RayCarrier, coordinator_of_cluster
from batchrt.integrations.ray.worker import ChainMapper, SecretProvider

if TYPE_CHECKING:
    from ray.data import Dataset

    from batchrt.runnables.base import Runnable

__all__ = ["map_dataset"]

ROWS_PER_BLOCK: Final = 256
"""Rows that a dying worker takes along, and that wait for the slowest of them."""
BLOCKS_IN_FLIGHT: Final = 4
"""Blocks under way in a worker: while the last row of one is waited for, rows of the others are sent."""
CPUS: Final = 0.5
"""A worker waits for a provider most of the time."""


def map_dataset(
    ds: Dataset,
    chain: Runnable[Any, Any],
    *,
    input: InputLike = None,  # noqa: A002  as for `invoke`
    output_columns: OutputLike = "output",
    concurrency: int | tuple[int, int] = 1,
    config: RunConfig | None = None,
    prefix: str = "",
    secrets: SecretProvider | None = None,
    rows_per_block: int | None = None,
    blocks_in_flight: int = BLOCKS_IN_FLIGHT,
    ray_options: Mapping[str, Any] | None = None,
) -> Dataset:
    """Return `ds` with the outcomes of a chain for its rows as further columns; lazily, as Ray Data does it.

    A row whose chain fails keeps its place: its output is null, and `error`, `error_type` and `error_status`
    say why. Further columns are `attempts`, `input_tokens`, `output_tokens`, `cost` and `request_id`.

    Args:
        ds: the dataset.
        chain: pickled for the workers, without keys: each takes `OPENAI_API_KEY` from its own environment.
        input: the column with the chain's inputs; several columns, for a dict of them; a function from a row,
            as a dict, to its input; or `None` for the row itself.
        output_columns: the column for the outputs; or, for outputs that are mappings, pydantic models or data
            classes, a list of the fields to have as columns. In place of a name a `pyarrow.Field` has the
            type too, and a `pyarrow.Schema` is a list of fields; otherwise a type is inferred in each block.
        concurrency: workers (Ray actors), or the fewest and the most of them.
        config: of the run, as for `arun`. `max_concurrency`, `max_cost` and `max_tokens_total` are those of
            all workers together; `cache` is a path on each worker's machine. Ray has its own progress bar and
            timeouts, so that `progress` and `deadline` are refused.
        prefix: stands before the names of the columns about errors, attempts and tokens.
        secrets: called in each worker before the chain is loaded; returns environment variables, such as
            `{"OPENAI_API_KEY": …}` from a vault.
        rows_per_block: blocks are split and put together to about this size: 256, or the length of a list for
            embeddings.
        blocks_in_flight: blocks under way in each worker.
        ray_options: further options of `Dataset.map_batches`, such as `num_cpus` (0.5), `memory`,
            `runtime_env`, `max_restarts` and `max_task_retries`.

    Raises:
        TypeError, ValueError: a wrong option, or a chain that cannot be pickled.
        InputError: `input` names a column that the dataset is known not to have.
    """
    inputs, outputs = InputColumns(input), OutputColumns(output_columns, prefix)
    schema = ds.schema(fetch_if_missing=False)
    if schema is not None:
        inputs.check(schema.names)
        outputs.check(schema.names)
    low, high = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    checked = _checked(config)
    lists = chain._step().lists
    rows = rows_per_block or max(ROWS_PER_BLOCK, lists or 0)
    return ds.repartition(target_num_rows_per_block=rows).map_batches(
        ChainMapper,
        fn_constructor_args=(cloudpickle.dumps(chain),),
        fn_constructor_kwargs={
            "input": input,
            "output_columns": output_columns
            if isinstance(output_columns, str | pa.Field)
            else [*output_columns],
            "prefix": prefix,
            "config": checked,
            "secrets": secrets,
            "carrier": RayCarrier(coordinator_of_cluster()),
            "run": uuid.uuid4().hex,
        },
        batch_format="pyarrow",
        batch_size=None,
        udf_modifying_row_count=False,
        compute=ActorPoolStrategy(
            min_size=low,
            max_size=high,
            max_tasks_in_flight_per_actor=2 * blocks_in_flight,
            max_concurrent_calls_per_actor=blocks_in_flight,
            enable_true_multi_threading=True,
        ),
        **{"num_cpus": CPUS, **(ray_options or {})},
    )


_REFUSED: Final = {
    "progress": "Ray Data has its own progress bar",
    "deadline": "bound the Ray job's time instead: the workers start and restart at times of their own",
}


def _checked(config: RunConfig | None) -> RunConfig:
    for name, reason in _REFUSED.items():
        if config is not None and config.get(name):
            raise ValueError(f"config has {name!r}, which a dataset does not take: {reason}")
    # The workers open the cache, on their own machines.
    given = {name: value for name, value in (config or {}).items() if name != "cache"}
    checked = check_config(given)
    if config is not None and "cache" in config:
        checked["cache"] = config["cache"]
    return checked
