"""Datasets of Ray Data, mapped with a chain on a cluster of this machine; `nox -s ray` runs these."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

ray: Any = pytest.importorskip("ray", reason="needs batchrt[ray]; see `nox -s ray`")
ray_data: Any = pytest.importorskip("ray.data")

from batchrt import ChatOpenAI, ChatPromptTemplate, InputError, RunnableLambda, StrOutputParser  # noqa: E402
from batchrt.integrations.ray import map_dataset  # noqa: E402
from batchrt.testing import MockProvider, RateLimits  # noqa: E402

# Ray warns of its own deprecations, and of files that it leaves to the garbage collector.
pytestmark = pytest.mark.filterwarnings("default")

KEY = "sk-canary-0123456789"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["OPENAI_API_KEY"] = KEY  # the workers' environment
    ray.init(
        num_cpus=4,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    ray_data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()
        del os.environ["OPENAI_API_KEY"]


def rows_of(ds: Any) -> list[dict[str, Any]]:
    return sorted(ds.take_all(), key=lambda row: row["id"])


def test_dataset_rows_keep_identity_and_errors_are_columns() -> None:
    """Each row has one outcome; a refused request fails its row and not the job."""
    provider = MockProvider(api_key=KEY, reject=lambda text: text.endswith("7"))
    with provider.serve() as server:
        model = ChatOpenAI("model", base_url=server.base_url)
        chain = ChatPromptTemplate.from_template("Say {id}") | model | StrOutputParser()
        rows = rows_of(map_dataset(ray_data.range(600), chain, output_columns="answer", concurrency=2))
    assert [row["id"] for row in rows] == list(range(600))
    for row in rows:
        if row["error"] is None:
            assert row["answer"] == provider.answer_to(f"Say {row['id']}")
            assert row["attempts"] >= 1
        else:
            assert (row["answer"], row["error_type"], row["error_status"]) == (None, "BadRequestError", 400)
    assert [row["id"] % 10 == 7 for row in rows] == [row["error"] is not None for row in rows]


def test_dataset_survives_a_killed_worker(tmp_path: Path) -> None:
    """Rows of a worker that was killed get their outcomes from another, and each exactly one."""
    marker = tmp_path / "killed"

    def kill_once(row: dict[str, Any]) -> int:
        if row["id"] == 300 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * int(row["id"])

    ds = map_dataset(ray_data.range(600), RunnableLambda(kill_once), concurrency=2, rows_per_block=50)
    rows = rows_of(ds)
    assert marker.exists()
    assert [(row["id"], row["output"]) for row in rows] == [(number, 2 * number) for number in range(600)]


def test_dataset_runs_blocks_of_a_worker_together() -> None:
    """The rows of several blocks are in flight in one worker at the same time."""
    now = 0

    async def count(_: dict[str, Any]) -> int:
        nonlocal now
        now += 1
        most = now
        await anyio.sleep(0.2)
        now -= 1
        return most

    rows = rows_of(
        map_dataset(ray_data.range(80), RunnableLambda(count), rows_per_block=10, blocks_in_flight=4)
    )
    assert max(row["output"] for row in rows) > 20


def test_dataset_makes_blocks_of_the_size_that_was_asked_for() -> None:
    """Large blocks are split, so that a worker that dies takes few rows along."""
    ds = map_dataset(
        ray_data.range(1000, override_num_blocks=2), RunnableLambda(lambda row: row["id"]), rows_per_block=100
    )
    sizes = [bundle.num_rows() for bundle in ds.iter_internal_ref_bundles()]
    assert sum(sizes) == 1000
    assert max(sizes) <= 100


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"input": "text"}, InputError, "'text'"),
        ({"output_columns": "id"}, ValueError, "'id'"),
        ({"config": {"deadline": 5}}, ValueError, "deadline"),
        ({"config": {"max_concurency": 5}}, ValueError, "max_concurency"),
    ],
)
def test_dataset_options_are_checked_before_anything_runs(options: Any, error: Any, said: str) -> None:
    """A wrong option is an error of the call."""
    ds = ray_data.range(10).materialize()
    with pytest.raises(error, match=said):
        map_dataset(ds, RunnableLambda(lambda row: row), **options)


def test_dataset_keys_are_in_no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No argument that goes to a worker has the key, and a chain that would need to is refused."""
    given: dict[str, Any] = {}

    def record(self: Any, *args: Any, **options: Any) -> Any:
        given.update(options, args=args)
        return self

    monkeypatch.setattr(ray_data.Dataset, "map_batches", record)
    map_dataset(ray_data.range(10), ChatOpenAI("model", api_key=KEY, base_url="http://localhost:1/v1"))
    assert KEY.encode() not in ray.cloudpickle.dumps(given)
    with pytest.raises(TypeError, match="cannot be pickled"):
        map_dataset(ray_data.range(10), ChatOpenAI("model", extra_headers={"x-api-key": KEY}))


def test_dataset_outcomes_are_counted_once_in_several_maps() -> None:
    """Two chains in a row have columns of their own by a prefix."""
    first = map_dataset(ray_data.range(20), RunnableLambda(lambda row: row["id"]), output_columns="one")
    second = map_dataset(
        first, RunnableLambda(lambda row: 1 / row["one"]), output_columns="two", prefix="second_"
    )
    kinds = Counter((row["error_type"], row["second_error_type"]) for row in rows_of(second))
    assert kinds == {(None, None): 19, (None, "ZeroDivisionError"): 1}


def test_dataset_workers_share_the_quota_and_the_slots() -> None:
    """The provider sees the limits of one client, though the coordinator is killed in mid-run."""
    provider = MockProvider(
        latency=0.05, rate_limits=RateLimits(requests_per_minute=6000, burst_seconds=1, headers="none")
    )
    with provider.serve() as server:
        model = ChatOpenAI("model", base_url=server.base_url, requests_per_minute=6000)
        ds = map_dataset(
            ray_data.range(1500), model, input=lambda row: f"Say {row['id']}", concurrency=3,
            config={"max_concurrency": 12}, rows_per_block=50,
        )  # fmt: skip
        rows: list[int] = []
        for batch in ds.iter_batches(batch_size=None, batch_format="pyarrow"):
            if not rows:
                os.kill(coordinator_pid(), signal.SIGKILL)
            rows += batch["id"].to_pylist()
            assert batch["error"].null_count == batch.num_rows
        log, verdict = provider.log.snapshot(), provider.verdict()
    assert sorted(rows) == list(range(1500))
    assert log.peak_in_flight <= 12
    assert verdict.rejected <= 15


def coordinator_pid() -> int:
    """Return the process of the coordinator, which Ray names after its class."""
    commands = {int(path.parent.name): path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline")}
    return next(pid for pid, command in commands.items() if command.startswith("ray::CoordinatorActor"))
