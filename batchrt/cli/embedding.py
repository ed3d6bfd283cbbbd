"""From the options of `batchrt embed` to its job."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from batchrt.cli.booking import Gatekeeper
from batchrt.cli.brake import Brake
from batchrt.cli.execution import check_limits, execute, in_options
from batchrt.cli.feed import Feed, feed_of
from batchrt.cli.job import Job
from batchrt.cli.listing import Embedded, ListCargo
from batchrt.cli.models import new_model
from batchrt.cli.options import read_whole
from batchrt.cli.packing import Lists, PipeLists
from batchrt.cli.purse import Purse
from batchrt.cli.settings import EmbedSettings
from batchrt.cli.tally import Tally
from batchrt.cli.texts import ID, text_reader
from batchrt.cli.usage import UsageProblem
from batchrt.errors import InputError
from batchrt.files import Source, VectorSink, open_vector_sink, required_columns
from batchrt.providers.embeddings.model import OpenAIEmbeddings

__all__ = ["embed_job"]

_UNBOUNDED: Final = 2048


def embed_job(settings: EmbedSettings) -> int:
    """Do what `settings` say and return the exit code.

    Raises:
        UsageProblem: something has to be put right first; nothing was sent and nothing written.
    """
    check_limits(settings)
    purse = Purse.of(settings, answers=False)
    model = embedding_model(settings)

    def new_job(source: Source, stack: ExitStack) -> Job:
        ids = [] if settings.id_column is None else [settings.id_column]
        required_columns(source, [settings.column, *ids])
        sink = stack.enter_context(_open_sink(settings, source))
        tally, gate, brake = (
            Tally(),
            Gatekeeper(max_wait=settings.max_wait, patience=settings.patience),
            Brake(),
        )
        return Job(
            _cargo(settings, model, source, tally=tally, gate=gate, brake=brake, purse=purse),
            model,
            settings=settings,
            source=source,
            sink=sink,
            tally=tally,
            gate=gate,
            brake=brake,
            purse=purse,
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
    raise UsageProblem(f"--truncate must be auto or a number of tokens, not {option[:40]!r}")


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
        raise UsageProblem(str(error)) from error
    except InputError as error:
        # Its format has an option of another name than the input's.
        prefix = "output_" if error.parameter == "format" else ""
        raise UsageProblem(in_options(error, prefix)) from error


def _cargo(
    settings: EmbedSettings,
    model: OpenAIEmbeddings,
    source: Source,
    *,
    tally: Tally,
    gate: Gatekeeper,
    brake: Brake,
    purse: Purse,
) -> ListCargo:
    call = model._lists({}).list_call(model.get_name())
    read = text_reader(source.path, settings.column, settings.id_column)
    feed = feed_of(source, settings.limit)
    return ListCargo(
        Embedded(call, tally, gate, brake, purse, timeout=settings.timeout),
        Lists(feed, read, call) if isinstance(feed, Feed) else PipeLists(feed, read, call),
        cap=settings.max_concurrency,
        size=call.limits().size or _UNBOUNDED,
        tally=tally,
        purse=purse,
    )
