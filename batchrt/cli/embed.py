"""The job of `batchrt embed`: an embedding model over rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final

from batchrt import OpenAIEmbeddings, PromptTemplate, RunConfig, Runnable, RunnableLambda
from batchrt.cli.budget import Budget
from batchrt.cli.counts import Counts
from batchrt.cli.errors import UsageError
from batchrt.cli.feed import AnyRow, Feed
from batchrt.cli.job import Job, check_limits, execute
from batchrt.cli.job_files import open_output
from batchrt.cli.models import new_model
from batchrt.cli.option_values import read_whole
from batchrt.cli.options import EmbedSettings
from batchrt.cli.prompt import prompt_of, read_template
from batchrt.cli.streamed_job import StreamedJob
from batchrt.files import Row, Source, field_reader, open_vector_sink, required_columns, text_reader

__all__ = ["embed_job"]

_ID: Final = "id"
"""The name of the id column in the output, whatever it is called in the input."""


def embed_job(settings: EmbedSettings) -> int:
    """Run the job of `settings` and return the exit code.

    Raises:
        UsageError: something has to be put right first; nothing was sent and nothing written.
    """
    check_limits(settings)
    _check_text(settings)
    budget, counts = Budget.of(settings, answers=False), Counts()
    model = embedding_model(settings)

    def new_job(source: Source, stack: ExitStack) -> Job:
        ids = [] if settings.id_column is None else [settings.id_column]
        text = _text_step(settings, source)
        required_columns(source, ids)
        columns = {_ID: int if settings.id_column is None else str}
        sink = open_output(open_vector_sink, settings, source, columns=columns, width=settings.dimensions)
        stack.enter_context(sink)
        chain = text | model.as_bytes()
        feed = Feed(source, settings.limit, counts, id_reader(settings.id_column))
        config = RunConfig(timeout=settings.timeout)
        return StreamedJob(
            chain, feed, sink, model=model, config=config, settings=settings, budget=budget, source=source
        )

    return execute(settings, new_job)


def embedding_model(settings: EmbedSettings) -> OpenAIEmbeddings:
    """Return the model of `--model`; raises as `new_model` does."""
    return new_model(
        OpenAIEmbeddings,
        settings,
        dimensions=settings.dimensions,
        server=settings.server,
        max_batch_size=settings.max_batch_size,
        max_batch_tokens=settings.max_batch_tokens,
        tokenizer=settings.tokenizer,
        truncate=_truncate(settings.truncate),
        extra_body=settings.options,
    )


def _truncate(option: str | None) -> bool | int:
    if option is None or option == "auto":
        return option is not None
    tokens = read_whole(option)
    if tokens is not None:
        return tokens
    raise UsageError(f"--truncate must be auto or a number of tokens, not {option[:40]!r}")


def id_reader(column: str | None) -> Callable[[AnyRow], Row]:
    """Return a function from a row to a row of its id alone; its number without a `column`.

    The rest is let go of: many rows wait for a list to be full, and then for its answer.
    """

    def read(row: AnyRow) -> Row:
        return Row(row.number, row.line, {_ID: row.number if column is None else row.values.get(column)})

    return read


def _check_text(settings: EmbedSettings) -> None:
    """Raise UsageError unless there is a column or a template, and not both."""
    if settings.column is None and settings.text is None:
        raise UsageError("Missing option '--column' or '--text' (see batchrt embed --help)")
    if settings.column is not None and settings.text is not None:
        raise UsageError("--column and --text name two texts; leave one out")


def _text_step(settings: EmbedSettings, source: Source) -> Runnable[AnyRow, str]:
    """Return a step from a row of `source` to the text to embed.

    Raises:
        UsageError: the template is not one.
        InputError: a column is missing.
    """
    if settings.column is not None:
        required_columns(source, [settings.column])
        return RunnableLambda(text_reader(source, settings.column), inline=True)
    template = read_template(settings.text or "", "--text")
    columns = source.survey(settings.limit)
    names = prompt_of([("user", template)], source, columns).input_variables
    if not names:
        raise UsageError("--text has no {column}: every row would have the same vector")
    fields = field_reader(source, names)

    def read(row: AnyRow) -> Mapping[str, Any]:
        values = fields(row)
        if all(values[name] == "" for name in names):
            problem = "there is no text, all columns of --text are empty; leave the row out"
            raise source.row_error(row, problem)
        return values

    filled = PromptTemplate(template, columns=columns)
    return RunnableLambda(read, inline=True) | filled | RunnableLambda(_text_of, inline=True)


def _text_of(value: Any) -> str:
    return str(value.to_string())
