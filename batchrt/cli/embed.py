"""The job of `batchrt embed`: an embedding model over rows."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from batchrt.cli.embed_step import (
    ID,
    EmbedStep,
    ListPipeline,
    Lists,
    PipeLists,
    TextOf,
    column_text,
    text_reader,
)
from batchrt.cli.errors import UsageError
from batchrt.cli.job import Job, JobState, check_limits, execute, output_option_named
from batchrt.cli.models import new_model
from batchrt.cli.option_values import read_whole
from batchrt.cli.options import EmbedSettings
from batchrt.cli.pipeline import Feed, feed_of
from batchrt.cli.prompt import prompt_of, read_template
from batchrt.cli.row_step import fields_of
from batchrt.errors import InputError
from batchrt.files import BadRow, Row, Source, VectorSink, open_vector_sink, required_columns
from batchrt.providers.embeddings.model import OpenAIEmbeddings
from batchrt.runnables.templates import Template

__all__ = ["embed_job"]

_UNBOUNDED: Final = 2048


def embed_job(settings: EmbedSettings) -> int:
    """Run the job of `settings` and return the exit code.

    Raises:
        UsageError: something has to be put right first; nothing was sent and nothing written.
    """
    check_limits(settings)
    _check_text(settings)
    state = JobState.of(settings, answers=False)
    model = embedding_model(settings)

    def new_job(source: Source, stack: ExitStack) -> Job:
        ids = [] if settings.id_column is None else [settings.id_column]
        text_of = _text_of(settings, source)
        required_columns(source, ids)
        sink = stack.enter_context(_open_sink(settings, source))
        pipeline = _pipeline(settings, model, source, state, text_of)
        return Job(pipeline, model, state, settings=settings, source=source, sink=sink)

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


def _check_text(settings: EmbedSettings) -> None:
    """Raise UsageError unless there is a column or a template, and not both."""
    if settings.column is None and settings.text is None:
        raise UsageError("Missing option '--column' or '--text' (see batchrt embed --help)")
    if settings.column is not None and settings.text is not None:
        raise UsageError("--column and --text name two texts; leave one out")


def _text_of(settings: EmbedSettings, source: Source) -> TextOf:
    """Return a function that returns the text of a row of `source`.

    Raises:
        UsageError: the template is not one.
        InputError: a column is missing.
    """
    if settings.column is not None:
        required_columns(source, [settings.column])
        return column_text(source.row_error, settings.column)
    template = read_template(settings.text or "", "--text")
    columns = source.survey(settings.limit)
    prompt = prompt_of([("user", template)], source, columns)
    if not prompt.input_variables:
        raise UsageError("--text has no {column}: every row would have the same vector")
    fields = fields_of(source, prompt.input_variables)
    fill = Template(template, columns).fill

    def text_of(row: Row | BadRow) -> str:
        try:
            text = fill(fields(row))
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise source.row_error(row, f"--text cannot be filled: {error}") from error
        if not text.strip():
            raise source.row_error(row, "there is no text; leave the row out")
        return text

    return text_of


def _truncate(option: str | None) -> bool | int:
    if option is None or option == "auto":
        return option is not None
    tokens = read_whole(option)
    if tokens is not None:
        return tokens
    raise UsageError(f"--truncate must be auto or a number of tokens, not {option[:40]!r}")


def _open_sink(settings: EmbedSettings, source: Source) -> VectorSink:
    try:
        return open_vector_sink(
            settings.output,
            columns={ID: int if settings.id_column is None else str},
            width=settings.dimensions,
            format=settings.output_format,
            overwrite=settings.overwrite,
            source=source,
        )
    except ImportError as error:
        raise UsageError(str(error)) from error
    except InputError as error:
        raise UsageError(output_option_named(error)) from error


def _pipeline(
    settings: EmbedSettings, model: OpenAIEmbeddings, source: Source, state: JobState, text_of: TextOf
) -> ListPipeline:
    call = model._lists({}).list_call(model.get_name())
    read = text_reader(text_of, settings.id_column)
    feed = feed_of(source, settings.limit)
    return ListPipeline(
        EmbedStep(call, state, timeout=settings.timeout),
        Lists(feed, read, call) if isinstance(feed, Feed) else PipeLists(feed, read, call),
        cap=settings.max_concurrency,
        size=call.limits().size or _UNBOUNDED,
        counts=state.counts,
        budget=state.budget,
    )
