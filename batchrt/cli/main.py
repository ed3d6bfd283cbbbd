"""The program: its commands and their help, which lists the exit codes."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Final, NoReturn

import typer

from batchrt.cli.config import ConfigSettings, show_config
from batchrt.cli.console import complain
from batchrt.cli.errors import UsageError
from batchrt.cli.mock import MockSettings, serve_mock
from batchrt.cli.option_values import check_text, with_ray_address
from batchrt.cli.options import EmbedSettings, RunSettings, command_of
from batchrt.cli.process import leave, open_standard_streams
from batchrt.cli.report import ReportSettings, show_report

__all__ = ["app", "main"]

_LOG: Final = logging.getLogger("batchrt")

# Typer brings a copy of click along in some versions and not in others; this class it always names.
_ParsingError: type[Exception] = typer.BadParameter.__mro__[1]

_EXIT_CODES: Final = """
Exit codes: 0 all fine, 1 some rows failed, 2 nothing was {}, 3 stopped at a limit of spending, 4
stopped in the middle (the provider refuses all requests, the output cannot be written, the input cannot
be read), 129 hung up, 130 interrupted, 141 the reader of the output has
closed it, 143 terminated.
"""
_RUN_HELP: Final = """
Ask a model about each row of INPUT; write the rows with the answers, in the same order.

The API key is taken from OPENAI_API_KEY. A failed row has an empty answer and the reason in its
error column. The column finish_reason has the provider's reason for the end of an answer: stop, or length
or content_filter for a truncated one. The first Ctrl-C finishes the requests in flight, skips rows that
wait for the provider, and stops; the second stops at once. At --max-tokens-total or --max-cost, requests
in flight are finished, and no more are sent.

No paid answer is lost: each is recorded in a journal beside OUT (OUT.journal), and after a kill, Ctrl-C, a
full disk or an outage the same command continues where it stopped. OUT is written once each row has an
outcome, or the run ends early. Rows without an answer because the provider refused all requests are not
failed; the next run sends them. Without a journal (stdout, pipes, remote files, --no-journal) rows are
written as they come.

With --ray the rows are asked by the workers of a Ray cluster. This process reads INPUT and writes OUT and
the journal, so that the same command continues with or without --ray. The limits hold for all workers
together.
""" + _EXIT_CODES.format("answered")

_EMBED_HELP: Final = """
Turn a text of each row of INPUT into a vector; write the vectors, in the same order.

Texts are sent in lists, as long as the server accepts. The suffix of OUT selects the format of the vectors,
each with its row's id: as a float32 matrix for numpy (.npy; the ids beside it in OUT.ids.jsonl), as a table
(.parquet; needs batchrt[parquet]), or as lines of JSON (.jsonl). A failed row has the reason
in its error field; in a matrix it is a row of NaN.

No paid vector is lost: each is recorded in a journal beside OUT (OUT.journal), and after a kill, Ctrl-C, a
full disk or an outage the same command continues where it stopped. OUT is written once each row has an
outcome, or the run ends early. Without a journal (stdout, pipes, remote files, --no-journal) rows are
written as they come.

The API key is taken from OPENAI_API_KEY. The first Ctrl-C finishes the requests in flight, skips lists
that wait for the provider, and stops; the second stops at once. At --max-tokens-total or --max-cost,
requests in flight are finished, and no more are sent. Finished rows are always written.
""" + _EXIT_CODES.format("embedded")

_REPORT_HELP: Final = """
Show the counts and failed rows of a job from its journal (see docs/jobs.md), also while the job runs.

Exit codes: 0 each row has an answer, 1 some rows failed, 2 the journal cannot be read, 4 the job is not
complete, or OUT or PAGE cannot be written.
"""

_CONFIG_HELP: Final = """
Show each setting of run and embed, its value and its origin: the default, a file, or the environment.

Settings come from batchrt.toml, or the table tool.batchrt of pyproject.toml, in this folder or the next one
above it, and from the user's own batchrt.toml; --profile NAME adds those of a profile. BATCHRT_… variables
override files, and options override both. See docs/money.md.
"""

_MOCK_HELP: Final = """
Serve a mock of OpenAI's API, with the latency and faults of your choice. Needs batchrt[mock].

Prints its base URL on stdout when it listens, and serves until Ctrl-C. The answers are the same
every time. GET /_mock/log returns the requests received, and GET /_mock/verdict how well the client used the
limits and kept the waits. Seconds count from the first request.
"""


# The modules of jobs import HTTP clients and numpy; --help and mistakes do without.
def _run(settings: RunSettings) -> int:
    from batchrt.cli.run import run_job

    return run_job(settings)


def _embed(settings: EmbedSettings) -> int:
    from batchrt.cli.embed import embed_job

    return embed_job(settings)


app: typer.Typer = typer.Typer(
    name="batchrt",
    help="Run a prompt or an embedding model over the rows of a file, through an OpenAI-compatible API.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("run", short_help="Ask a model about each row of a file.", help=_RUN_HELP)(
    command_of(RunSettings, _run)
)
app.command("embed", short_help="Turn a text of each row into a vector.", help=_EMBED_HELP)(
    command_of(EmbedSettings, _embed)
)
app.command("report", short_help="Show the counts and failed rows of a job.", help=_REPORT_HELP)(
    command_of(ReportSettings, show_report)
)
app.command("config", short_help="Show the settings and where they come from.", help=_CONFIG_HELP)(
    command_of(ConfigSettings, show_config)
)
app.command("mock", short_help="Serve a mock provider.", help=_MOCK_HELP)(
    command_of(MockSettings, serve_mock)
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  typer's callbacks are called like this
    if wanted:
        try:
            typer.echo(f"batchrt {version('batchrt')}")
        except PackageNotFoundError:
            typer.echo("batchrt, from a source tree that is not installed")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _program(
    context: typer.Context,
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command in `arguments` (the process's own if `None`) and exit."""
    open_standard_streams()
    # The library's log records are shown as events of the job; without a handler Python would print it too.
    if not _LOG.handlers:
        _LOG.addHandler(logging.NullHandler())
    leave(_exit_code(sys.argv[1:] if arguments is None else list(arguments)))


def _exit_code(arguments: list[str]) -> int:
    try:
        check_text(arguments)
        code = app(with_ray_address(arguments), prog_name="batchrt", standalone_mode=False)
    except UsageError as problem:
        complain(str(problem))
        return 2
    except _ParsingError as error:
        complain(f"{_message(error)} (see {_command(arguments)} --help)")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except (OSError, SystemExit) as error:
        # Click makes an exit of a pipe that is closed.
        cause = error.__context__ if isinstance(error, SystemExit) else error
        if not isinstance(cause, OSError) or cause.filename is not None or cause.errno not in _UNWRITABLE:
            raise
        return _unwritten(cause)
    return code if isinstance(code, int) else 0


_UNWRITABLE: Final = frozenset((errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))
"""Errors of writing help or a report to stdout; files have errors of their own."""


def _unwritten(error: OSError) -> int:
    """Return the exit code for a stdout that cannot be written, and make it the null device.

    The interpreter writes what is left in its buffer at the exit, and would complain of the same once more.
    """
    with open(os.devnull, "wb") as null:  # noqa: PTH123
        os.dup2(null.fileno(), 1)
    if error.errno == errno.EPIPE:
        return 141
    complain(f"stdout: cannot write: {(error.strerror or str(error)).lower()}")
    return 4


def _command(arguments: list[str]) -> str:
    known = arguments and arguments[0] in ("run", "embed", "report", "config", "mock")
    return f"batchrt {arguments[0]}" if known else "batchrt"


def _message(error: Exception) -> str:
    say = getattr(error, "format_message", None)
    text = " ".join(str(say() if callable(say) else error).split()).removesuffix(".")
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    source = None if context is None or parameter is None else context.get_parameter_source(parameter.name)
    is_of_environment = source is not None and source.name == "ENVIRONMENT"
    return f"{text} (it is set by {parameter.envvar})" if parameter and is_of_environment else text
