"""The instrumentation: on and off, its options, samples, and other processes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from batchrt import RunnableLambda
from batchrt.integrations.opentelemetry import BatchrtInstrumentor, instrument, uninstrument
from batchrt.runtime.observers import installed
from tests.integrations.opentelemetry.recording import Recorder, chat, embeddings, recording


def test_instrumentation_is_off_by_default() -> None:
    """`import batchrt`, and a run, import nothing of OpenTelemetry."""
    code = (
        "import sys, batchrt; batchrt.RunnableLambda(lambda x: x).batch([1]);"
        "sys.exit(any(name.partition('.')[0] == 'opentelemetry' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert installed() is None


def test_instrumentation_may_be_replaced_and_removed() -> None:
    """The latest options count; each run is followed once; nothing is left behind."""
    first, second = Recorder(), Recorder()
    model = chat()
    for recorder, items in ((first, False), (second, True), (second, False), (second, True)):
        instrument(
            tracer_provider=recorder.tracer_provider, meter_provider=recorder.meter_provider, items=items
        )
    try:
        model.batch(["a"])
        assert model.quota.events.watchers
    finally:
        uninstrument()
    uninstrument()
    model.batch(["a"])
    assert not first.spans()
    assert [span.name for span in second.spans()] == ["chat m", "batchrt.item", "invoke_workflow"]
    assert second.values("batchrt.requests", "error.type") == {None: 1}
    assert not model.quota.events.watchers
    assert installed() is None


def test_instrumentation_goes_on_with_its_counters() -> None:
    """Counters of a provider that is used again do not begin anew, and none is reported twice."""
    recorder, model = Recorder(), chat()
    for _ in range(2):
        instrument(tracer_provider=recorder.tracer_provider, meter_provider=recorder.meter_provider)
        model.invoke("a")
        assert len(recorder.points()["batchrt.quota.in_flight"]) == 1
        uninstrument()
        assert "batchrt.quota.in_flight" not in recorder.points()
    assert recorder.values("batchrt.requests", "error.type") == {None: 2}


def test_instrumentation_goes_on_with_counters_of_before_the_global_provider() -> None:
    """A provider that is set late has them, also after the options are changed; a process sets it once."""
    code = (
        "from opentelemetry import metrics\n"
        "from batchrt.integrations.opentelemetry import instrument\n"
        "from tests.integrations.opentelemetry.recording import Recorder, chat\n"
        "recorder, model = Recorder(), chat()\n"
        "instrument()\n"
        "model.invoke('a')\n"
        "metrics.set_meter_provider(recorder.meter_provider)\n"
        "for items in (False, True):\n"
        "    instrument(items=items)\n"
        "    model.invoke('a')\n"
        "instrument(meter_provider=recorder.meter_provider)\n"
        "model.invoke('a')\n"
        "print(recorder.values('batchrt.requests', 'error.type'))\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "{None: 4}", done.stderr


@pytest.mark.parametrize("moment", ["start", "end"])
def test_instrumentation_that_fails_costs_no_answer(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    """A span processor's error is logged once; runs, items, requests and streams go on without it."""

    class Failing(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if moment == "start":
                raise RuntimeError("the processor is broken")

        def on_end(self, span: Any) -> None:
            if moment == "end":
                raise RuntimeError("the processor is broken")

    model = chat()
    with recording(items=True) as recorder:
        recorder.tracer_provider.add_span_processor(Failing())
        assert [answer.text for answer in model.batch(["a", "b"])] == ["fine", "fine"]
        assert model.invoke("a").text == "fine"
        assert model.map().invoke(["a"])[0].text == "fine"
    assert recorder.values("batchrt.requests", "error.type") == {None: 4}
    assert [record.levelname for record in caplog.records if record.name == "batchrt"] == ["ERROR"]


def test_instrumentation_refuses_a_ratio_that_is_none() -> None:
    """Of a share, 1 is the most."""
    for ratio in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="sample_ratio"):
            instrument(sample_ratio=ratio)
    assert installed() is None


@pytest.mark.anyio
async def test_instrumentation_samples_items_and_their_requests() -> None:
    """A tenth of the items have spans, with all of their requests; counters count all of them."""
    model = chat()
    twice = RunnableLambda[str, Any](lambda text: [text, text]) | model.map()
    with recording(items=True, sample_ratio=0.1) as recorded:
        await twice.abatch([str(number) for number in range(200)])
        items, requests = recorded.spans("batchrt.item"), recorded.spans("chat")
        assert 18 <= len(items) <= 22
        parents = [span.parent.span_id for span in requests if span.parent is not None]
        assert sorted(parents) == sorted(2 * [item.context.span_id for item in items if item.context])
        (duration,) = recorded.points()["gen_ai.client.operation.duration"]
        assert duration.count == len(requests)
        assert recorded.values("batchrt.requests", "error.type") == {None: 400}
        assert recorded.values("batchrt.tokens", "gen_ai.token.type") == {"input": 4000, "output": 1600}
        assert recorded.values("batchrt.tokens.cache_read", "") == {None: 2400}
        assert recorded.values("batchrt.tokens.reasoning", "") == {None: 800}


@pytest.mark.anyio
async def test_instrumentation_samples_runs_of_a_single_input() -> None:
    """A service's calls are items too; a list is followed in any case."""
    model = chat()
    with recording(sample_ratio=0.1) as recorded:
        for number in range(100):
            await model.ainvoke(str(number))
        assert 8 <= len(recorded.spans("invoke_workflow")) <= 12
        assert len(recorded.spans("chat")) == len(recorded.spans("invoke_workflow"))
        assert recorded.values("batchrt.requests", "error.type") == {None: 100}
        await (RunnableLambda[str, str](str.strip) | embeddings(max_batch_size=5)).abatch(["a", "b"])
        assert len(recorded.spans("embeddings")) == 1


@pytest.mark.anyio
async def test_instrumentation_follows_an_unsampled_trace_by_metrics() -> None:
    """Spans that the SDK's sampler drops have no attributes to gather, and the metrics are whole."""
    recorder, model = Recorder(), chat()
    recorder.tracer_provider.sampler = ALWAYS_OFF
    instrument(tracer_provider=recorder.tracer_provider, meter_provider=recorder.meter_provider, items=True)
    try:
        await model.abatch(["a", "b"])
    finally:
        uninstrument()
    assert not recorder.spans()
    (duration,) = recorder.points()["gen_ai.client.operation.duration"]
    assert duration.count == 2
    assert duration.attributes["gen_ai.response.model"] == "m-1"


def test_instrumentor_is_found_by_its_entry_point() -> None:
    """`opentelemetry-instrument` loads it, and passes options of its own."""
    from importlib.metadata import entry_points

    (found,) = entry_points(group="opentelemetry_instrumentor", name="batchrt")
    instrumentor = found.load()()
    assert isinstance(instrumentor, BatchrtInstrumentor)
    recorder = Recorder()
    instrumentor.instrument(tracer_provider=recorder.tracer_provider, skip_dep_check=True)
    try:
        chat().invoke("a")
    finally:
        instrumentor.uninstrument()
    assert [span.name for span in recorder.spans()] == ["chat m", "invoke_workflow"]


def _count_in_child(recorder: Recorder, queue: Any) -> None:
    """Make one request in a child, and report what it recorded and counted."""
    before = len(recorder.spans())
    chat().invoke("a")
    counts = recorder.values("batchrt.requests", "error.type")
    queue.put((len(recorder.spans()) - before, counts.get(None), installed() is not None))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_instrumentation_is_inherited_by_a_fork() -> None:
    """The child is followed as well, and counts its own requests alone."""
    context = multiprocessing.get_context("fork")
    with recording() as recorded:
        model = chat()
        model.invoke("a")
        model.invoke("a")
        queue: Any = context.Queue()
        child = context.Process(target=_count_in_child, args=(recorded, queue))
        child.start()
        assert queue.get(timeout=60) == (2, 1, True)
        child.join()
        assert recorded.values("batchrt.requests", "error.type") == {None: 2}


def test_instrumentation_is_not_passed_to_a_spawned_process() -> None:
    """It instruments itself; a chain that is sent to it goes without the instrumentation."""
    with recording():
        chain = RunnableLambda[Any, Any](len)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(installed) is None
            assert pool.apply(chain.invoke, ("abc",)) == 3
