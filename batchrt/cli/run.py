"""The job of `batchrt run`: a chain over rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Final

from batchrt import ChatOpenAI, Outcome, OutputLayout, RunConfig, Runnable, RunnableLambda
from batchrt.cli.answers import Answer, answer_step
from batchrt.cli.budget import Budget
from batchrt.cli.cache import open_cache
from batchrt.cli.cluster import check_cluster, open_pool, pooled_chain
from batchrt.cli.console import complain
from batchrt.cli.counts import Counts
from batchrt.cli.dry_run import look_ahead
from batchrt.cli.errors import UsageError
from batchrt.cli.feed import AnyRow, Feed, window_of
from batchrt.cli.job import Job, check_limits, execute
from batchrt.cli.job_files import open_output, output_format
from batchrt.cli.journal_job import JournalJob, RowKind
from batchrt.cli.journal_path import check_owner, journal_path
from batchrt.cli.options import RunSettings
from batchrt.cli.prompt import chat_model, prompt_of, read_prompt, read_schema
from batchrt.cli.streamed_job import StreamedJob
from batchrt.files import Sink, Source, field_reader, fields_of_schema, open_sink, prompt_values
from batchrt.files.cells import error_line

__all__ = ["run_job"]


def run_job(settings: RunSettings) -> int:
    """Run the job of `settings` and return the exit code.

    Raises:
        UsageError: something has to be put right first; nothing was sent and nothing written.
    """
    messages = read_prompt(settings)
    schema = None if settings.schema is None else read_schema(settings.schema)
    if settings.flatten and (schema is None or not fields_of_schema(schema)):
        raise UsageError("--flatten makes columns of a schema's fields: name one with --schema that has some")
    check_limits(settings)
    settings = check_cluster(settings)
    journal = journal_path(settings)
    budget, counts = Budget.of(settings, answers=True), Counts()
    model = chat_model(settings)
    answers = _answers(settings, model, schema)

    def new_job(source: Source, stack: ExitStack) -> Job:
        columns = source.survey(settings.limit)
        prompt = prompt_of(messages, source, columns)
        open_sink = partial(_open_sink, settings, source, columns, schema)
        if not prompt.input_variables and not settings.quiet:
            complain("the prompt has no {column}: every row is asked the same")
        ask: Runnable[Any, Answer] = prompt | answers
        if settings.timeout is not None:
            ask = ask.with_config(timeout=settings.timeout, run_name="the row")
        fields = field_reader(source, prompt.input_variables)
        of_values = _from_values(source, prompt.input_variables, ask)
        given: Any = {"model": model, "settings": settings, "budget": budget}
        if journal is not None:
            check_owner(journal, source, settings, of_vectors=False)
        look_ahead(of_values, source, fields, journal=journal, version=_ANSWERS.version, **given)
        given["source"] = source
        feed = Feed(source, settings.limit, counts)
        if settings.ray is not None:
            return _pooled_job(
                of_values, open_sink, fields, feed=feed, journal=journal, stack=stack, given=given
            )
        config = RunConfig(cache=open_cache(settings, journal, stack))
        if journal is not None:
            return JournalJob(
                of_values, OutputLayout(open_sink, _write), fields, _ANSWERS, journal, config=config, **given
            )
        return _streamed_job(ask, open_sink, fields, feed=feed, stack=stack, config=config, given=given)

    return execute(settings, new_job)


def _streamed_job(
    chain: Runnable[Any, Any],
    opened: Callable[[None], Sink],
    fields: Callable[[AnyRow], Any],
    *,
    feed: Feed,
    stack: ExitStack,
    config: RunConfig,
    given: dict[str, Any],
) -> Job:
    """Return the job without a journal, of a chain that takes what `fields` reads of a row."""
    sink = stack.enter_context(opened(None))
    config["window"] = window_of(given["settings"].max_concurrency)
    return StreamedJob(RunnableLambda(fields, inline=True) | chain, feed, sink, config=config, **given)


def _pooled_job(
    chain: Runnable[Any, Any],
    opened: Callable[[str | None], Sink],
    fields: Callable[[AnyRow], Any],
    *,
    feed: Feed,
    journal: str | None,
    stack: ExitStack,
    given: dict[str, Any],
) -> Job:
    """Return the job of a chain that the workers of a Ray cluster run."""
    settings: RunSettings = given["settings"]
    pool = open_pool(chain, settings, journal, stack)
    pooled = pooled_chain(chain, pool, settings)
    # The workers keep --max-concurrency; here it is the most rows that they have.
    given["settings"] = replace(settings, max_concurrency=pool.capacity)
    job: Job
    if journal is not None:
        job = JournalJob(
            pooled, OutputLayout(opened, _write), fields, _ANSWERS, journal, config=RunConfig(), **given
        )
    else:
        job = _streamed_job(pooled, opened, fields, feed=feed, stack=stack, config=RunConfig(), given=given)
    job.use(pool)
    return job


def _refined(outcome: Outcome[Any]) -> Outcome[Any]:
    """Return the outcome of an answer as JSON can carry it."""
    answer = outcome.output
    if not isinstance(answer, Answer):
        return outcome
    recorded = {"output": answer.output, "finish_reason": answer.finish_reason}
    if answer.cut_off:
        recorded["cut_off"] = True
    return replace(outcome, output=recorded, error=answer.error)


def _cut_off(recorded: Any) -> str | None:
    return recorded["finish_reason"] or "" if recorded.get("cut_off") else None


def _write(sink: Sink, _place: int, values: Mapping[str, Any], recorded: Any, error: str | None) -> None:
    if recorded is None:
        sink.write(values, None, error)
    else:
        sink.write(values, recorded["output"], error, recorded["finish_reason"])


_ANSWERS: Final = RowKind("batchrt run 1", _refined, _cut_off)


def _from_values(source: Source, names: tuple[str, ...], ask: Runnable[Any, Answer]) -> Runnable[Any, Answer]:
    """Return `ask` for the values of rows as the file has them."""
    if source.is_table:
        return ask
    return RunnableLambda(partial(prompt_values, names=names), inline=True, name="prompt values") | ask


def _open_sink(
    settings: RunSettings,
    source: Source,
    columns: Sequence[str],
    schema: dict[str, Any] | None,
    path: str | None,
) -> Sink:
    """Open the output; at another `path` for a journal's rows."""
    if path is not None:
        settings = replace(settings, output=path, overwrite=True)
    return open_output(
        open_sink,
        settings,
        source,
        rebuildable=path is not None,
        columns=columns,
        output_column=settings.output_column,
        finish_reasons=True,
        flatten=fields_of_schema(schema) if settings.flatten and schema is not None else None,
        delimiter=settings.delimiter if output_format(settings) == "csv" else None,
        encoding=settings.output_encoding,
    )


def _answers(
    settings: RunSettings, model: ChatOpenAI, schema: dict[str, Any] | None
) -> Runnable[Any, Answer]:
    """Return the part of the chain behind the prompt.

    Raises:
        UsageError: the schema cannot be sent.
    """
    answers = answer_step(structured=schema is not None, fail_cut_off=settings.fail_cut_off)
    if schema is None:
        return model | answers
    try:
        structured = model.with_structured_output(schema, include_raw=True)
    except Exception as error:
        reason = error_line(error)
        raise UsageError(f"--schema: {settings.schema} cannot be used: {reason}") from error
    return structured | answers
