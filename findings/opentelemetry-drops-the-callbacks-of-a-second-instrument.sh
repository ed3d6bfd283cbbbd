#!/usr/bin/env bash
# opentelemetry-sdk 1.45.2, an observable gauge that is created twice under one name, as when a library is instrumented
# again with new options, or two objects report the same metric.
#
# A good guess: the callbacks of both are called, or the second creation is refused; a warning in any case.
# What it does: the second creation returns the first instrument and drops the new callbacks, without a word: what they
# would have reported is never collected. So the instruments of a meter are made once, and their callbacks read what may
# be replaced.
#
# Seen: "same instrument: True; called: ['first']; logged: []".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q opentelemetry-sdk==1.45.2
"$home/venv/bin/python" - <<'END'
import logging
import warnings

from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

logged, called = [], []
handler = logging.Handler()
handler.emit = lambda record: logged.append(record.getMessage())
logging.getLogger().addHandler(handler)
warnings.simplefilter("error")

def callback(name):
    def read(_options):
        called.append(name)
        return [Observation(1, {"who": name})]
    return read

reader = InMemoryMetricReader()
meter = MeterProvider([reader]).get_meter("library")
first = meter.create_observable_gauge("queue", callbacks=[callback("first")])
second = meter.create_observable_gauge("queue", callbacks=[callback("second")])
reader.get_metrics_data()
print(f"same instrument: {first is second}; called: {called}; logged: {logged}")
assert (first is second, called, logged) == (True, ["first"], []), "the second callbacks are called, or refused, now"
END
