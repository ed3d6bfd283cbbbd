"""The job of `batchrt embed`: an embedding model over rows."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from batchrt.cli.embed_step import ID, EmbedStep, ListPipeline, Lists, PipeLists, text_reader
from batchrt.cli.errors import UsageError
from batchrt.cli.job import Job, JobState, check_limits, execute, output_option_named
from batchrt.cli.models import new_model
from batchrt.cli.option_values import read_whole
from batchrt.cli.options import EmbedSettings
from batchrt.cli.pipeline import Feed, feed_of
from batchrt.errors import InputError
from batchrt.files import Source, VectorSink, open_vector_sink, required_columns
from batchrt.providers.embeddings.model import OpenAIEmbeddings

__all__ = ["embed_job"]

_UNBOUNDED: Final = 2048


def embed_job(settings: EmbedSettings) -> int:
    """Run the job of `settings` and return the exit code.

    Raises:
        UsageError: something has to be put right first; nothing was sent and nothing written.
    """
    check_limits(settings)
    state = JobState.of(settings, answers=False)
    model = embedding_model(settings)

    def new_job(source: Source, stack: ExitStack) -> Job:
        ids = [] if settings.id_column is None else [settings.id_column]
        required_columns(source, [settings.column, *ids])
        sink = stack.enter_context(_open_sink(settings, source))
        pipeline = _pipeline(settings, model, source, state)
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
    settings: EmbedSettings, model: OpenAIEmbeddings, source: Source, state: JobState
) -> ListPipeline:
    call = model._lists({}).list_call(model.get_name())
    read = text_reader(source.row_error, settings.column, settings.id_column)
    feed = feed_of(source, settings.limit)
    return ListPipeline(
        EmbedStep(call, state, timeout=settings.timeout),
        Lists(feed, read, call) if isinstance(feed, Feed) else PipeLists(feed, read, call),
        cap=settings.max_concurrency,
        size=call.limits().size or _UNBOUNDED,
        counts=state.counts,
        budget=state.budget,
    )
