"""The dry run: requests, tokens, cost and time of a job, shown before it or in its place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import typer

from batchrt import ChatOpenAI, JobEstimate, OpenAIEmbeddings, Runnable, TokenizerError, estimate_job
from batchrt.cli.budget import Budget
from batchrt.cli.console import complain, count, duration, money, say
from batchrt.cli.errors import UsageError
from batchrt.cli.job_files import open_input
from batchrt.cli.options import JobSettings
from batchrt.files import BadRow, Row, Source
from batchrt.files.cells import error_line, shorten
from batchrt.files.remote import is_remote

__all__ = ["look_ahead"]

_LONGEST: Final = 2000
"""Characters of a message that are shown."""
_TEXTS: Final = ("messages", "prompt", "input", "model")
_GUESS: Final = 256
"""Tokens of an answer whose length nothing bounds, as in `JobEstimate`."""


def look_ahead(
    chain: Runnable[Any, Any],
    source: Source,
    read: Callable[[Row | BadRow], object],
    *,
    settings: JobSettings,
    budget: Budget,
    model: ChatOpenAI | OpenAIEmbeddings,
    journal: str | None,
    version: str,
) -> None:
    """Show the job if `--dry-run` is given, and ask for leave to run it if `--confirm-above` is.

    Args:
        chain: from a row's values to its output.
        source: the rows, which a dry run uses up.
        read: raises InputError for a row that the chain cannot take.
        settings: as they were given.
        budget: has the price.
        model: the model, whose limits say how long the job takes.
        journal: the path of the job's journal, if it has one.
        version: of the chain, as for `Job`.

    Raises:
        typer.Exit: the job is not to be run.
        UsageError: it cannot be estimated, or there is no terminal to ask on.
    """
    if not settings.dry_run and (settings.confirm_above is None or settings.yes):
        return
    if settings.dry_run:
        rows = source
    else:
        _check_readable_twice(source)
        rows = open_input(settings)
    rows.check(read)
    try:
        estimate = estimate_job(
            chain,
            rows,
            prices=budget.price,
            tokenizer=settings.tokenizer,
            examples=settings.show,
            limit=settings.limit if settings.sample is None else None,
            journal=None if settings.fresh else journal,
            reuse_any=settings.reuse == "any",
            retry_failed=settings.retry_failed,
            version=version,
        )
    except (ImportError, TokenizerError) as error:
        raise UsageError(str(error).replace('tokenizer="tiktoken"', "--tokenizer tiktoken")) from error
    finally:
        if rows is not source:
            rows.close()
    if settings.dry_run:
        typer.echo("\n".join(_lines(estimate, settings, budget, model)))
        raise typer.Exit(0)
    _confirm(estimate, settings, budget)


def _check_readable_twice(source: Source) -> None:
    for path in source.paths:
        if path == "-" or not (is_remote(path) or Path(path).is_file()):
            raise UsageError(
                f"--confirm-above reads the input twice, and {'stdin' if path == '-' else path} can be read "
                "once only; name a file, or add --yes"
            )


def _confirm(estimate: JobEstimate, settings: JobSettings, budget: Budget) -> None:
    """Ask for leave to run a job that may cost more than the settings say.

    Raises:
        typer.Exit: there is no leave.
        UsageError: there is no terminal to ask on.
    """
    most, limit = _most(estimate), settings.confirm_above
    assert limit is not None
    if most <= limit:
        return
    cost = f"{money(most)}{'' if budget.known is None else budget.known.words()}"
    if estimate.max_cost is None:
        cost += f" with answers of {_GUESS} tokens, which --max-tokens would bound"
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        raise UsageError(
            f"the job may cost {cost}, more than --confirm-above {limit:g}; add --yes to run it, since there "
            "is no terminal to ask on"
        )
    for line in (_rows(estimate), _tokens(estimate), *_costs(estimate, budget)):
        say(line)
    if not typer.confirm(f"Send {count(estimate.to_send, 'row')}?", err=True):
        complain("nothing was sent")
        raise typer.Exit(2)


def _most(estimate: JobEstimate) -> float:
    """Return the most that the job can cost or, if nothing bounds answers, a guess of its cost."""
    most = estimate.guessed_cost if estimate.max_cost is None else estimate.max_cost
    assert most is not None
    return most


def _lines(
    estimate: JobEstimate, settings: JobSettings, budget: Budget, model: ChatOpenAI | OpenAIEmbeddings
) -> Iterator[str]:
    """Yield the lines of a dry run."""
    for example in estimate.examples:
        yield f"row {example.position + 1}:"
        for role, text in _messages(example.body):
            yield f"  {role}: {_printable(text)}"
    if estimate.examples:
        yield f"model: {', '.join(_parameters(estimate, settings))}, at {model.base_url}"
    yield _rows(estimate)
    if estimate.invalid_example is not None:
        position, error = estimate.invalid_example
        yield f"{count(estimate.invalid, 'row')} cannot be sent, as row {position + 1}: {error_line(error)}"
    yield _tokens(estimate)
    yield from _costs(estimate, budget)
    limits = model.quota.statistics().limits
    seconds = estimate.least_seconds(limits)
    known = ", ".join(f"{limit:g} {name.replace('_', ' ')}" for name, limit in limits.items())
    if seconds is None:
        yield "time: not known, as no limit of the provider is known before its first answer"
    else:
        yield f"time: at least {duration(seconds)}, at {known}"
    yield "dry run: nothing was sent"


def _messages(body: Any) -> Iterator[tuple[str, str]]:
    """Yield the role and the text of each part of a request."""
    if not isinstance(body, Mapping):
        yield "text", str(body)
        return
    for message in body.get("messages", ()):
        yield str(message.get("role")), _text(message.get("content"))
    for name in ("prompt", "input"):
        if name in body:
            yield name, _text(body[name])


def _text(content: Any) -> str:
    """Return a message's text; parts of other kinds are shown as `[image_url]`."""
    if isinstance(content, list):
        return "\n".join(map(_text_of_part, content))
    return "" if content is None else str(content)


def _text_of_part(part: Any) -> str:
    if not isinstance(part, Mapping):
        return str(part)
    return str(part.get("text", f"[{part.get('type')}]"))


def _printable(text: str) -> str:
    """Return `text` such that it changes nothing else on a terminal, its further lines indented."""
    safe = "".join(map(_escaped, shorten(text, _LONGEST)))
    return safe.replace("\n", "\n    ")


def _escaped(character: str) -> str:
    if character.isprintable() or character in "\n\t":
        return character
    return character.encode("unicode_escape").decode()


def _parameters(estimate: JobEstimate, settings: JobSettings) -> Iterator[str]:
    """Yield the model and the parameters of the first request."""
    yield estimate.model or settings.model
    body = estimate.examples[0].body
    for name, value in body.items() if isinstance(body, Mapping) else ():
        if name not in _TEXTS:
            yield f"{name} {shorten(str(value))}"


def _rows(estimate: JobEstimate) -> str:
    matches = estimate.matches
    line = f"rows: {estimate.rows:,}, of which {estimate.to_send:,} would be sent"
    if matches is None or not (matches.reused or matches.failed_before or matches.changed):
        return line
    counts = {"done": matches.reused, "failed before": matches.failed_before, "changed": matches.changed}
    found = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    return f"{line} (by the journal: {found}, {matches.new:,} new)"


def _tokens(estimate: JobEstimate) -> str:
    if estimate.input_tokens is None:
        return "tokens: not known"
    if estimate.tokenizer == "estimate":
        line = f"tokens: about {estimate.input_tokens:,} in (an estimate; --tokenizer tiktoken counts them)"
    else:
        line = f"tokens: {estimate.input_tokens:,} in (counted by tiktoken, {estimate.tokenizer})"
    if estimate.uncounted:
        line += f", without the images, audio and files of {count(estimate.uncounted, 'row')}"
    if not estimate.answers:
        return line
    if estimate.max_output_tokens is None:
        return f"{line}; out: without a bound (--max-tokens sets one)"
    return f"{line}, at most {estimate.max_output_tokens:,} out"


def _costs(estimate: JobEstimate, budget: Budget) -> Iterator[str]:
    """Yield the line about the cost: a range, if the answers are bounded."""
    least, most, guess = estimate.input_cost, estimate.max_cost, estimate.guessed_cost
    if budget.known is None or least is None or guess is None:
        yield "cost: not known, as the model's price is not (--price-input and --price-output give it)"
        return
    words = budget.known.words()
    if not estimate.answers:
        yield f"cost: {money(least)}{words}"
    elif most is None:
        in_all = f"{money(guess)} in all with answers of {_GUESS} tokens"
        yield f"cost: {money(least)}{words} for the input; {in_all}"
    else:
        yield f"cost: {money(least)} to {money(most)}{words}"
