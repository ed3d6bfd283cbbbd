"""What `batchrt run` was asked to do."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold the options of `batchrt run`, as they were given."""

    source: str
    prompt: str
    system: str | None = None
    model: str
    base_url: str | None = None
    max_concurrency: int
    schema: str | None = None
    output: str = "-"
    format: str | None = None
    output_format: str | None = None
    overwrite: bool = False
    output_column: str = "output"
    timeout: float | None = None
    max_retries: int
    temperature: float | None = None
    max_tokens: int | None = None
    limit: int | None = None
    quiet: bool = False
