"""A job in a process of its own, which a test kills; it writes the places of finished rows to stdout."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from batchrt import ChatOpenAI, Job, JobReport, Outcome, PromptTemplate, StrOutputParser


def make_job(base_url: str, source: str, sink: str, journal: str, cap: int = 50, **options: Any) -> Job:
    model = ChatOpenAI("m", base_url=base_url, api_key="k", max_retries=8)
    chain = PromptTemplate.from_template("number {number}") | model | StrOutputParser()
    return Job(chain, source, sink, journal=journal, config={"max_concurrency": cap}, **options)


def show(outcome: Outcome[Any]) -> None:
    os.write(1, f"{outcome.index}\n".encode())


def main(arguments: str) -> None:
    job = make_job(**json.loads(arguments))
    signal.signal(signal.SIGTERM, lambda *_: job.stop())
    report: JobReport = job.run(show)
    os.write(1, b"complete\n" if report.is_complete else b"incomplete\n")


if __name__ == "__main__":
    main(sys.argv[1])
