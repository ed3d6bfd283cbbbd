"""What a command was asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["EmbedSettings", "JobSettings", "Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """Hold the options that `batchrt run` and `batchrt embed` have in common, as they were given."""

    source: str
    model: str
    base_url: str | None = None
    max_concurrency: int | Literal["auto"]
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_tokens_total: int | None = None
    max_cost: float | None = None
    price_input: float | None = None
    price_output: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    output: str = "-"
    format: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    output_format: str | None = None
    overwrite: bool = False
    timeout: float | None = None
    max_retries: int
    patience: float
    max_wait: float
    limit: int | None = None
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(JobSettings):
    """Hold the options of `batchrt run`."""

    prompt: str
    system: str | None = None
    schema: str | None = None
    output_column: str = "output"
    output_encoding: str | None = None
    fail_cut_off: bool = False
    temperature: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSettings(JobSettings):
    """Hold the options of `batchrt embed`."""

    column: str
    id_column: str | None = None
    dimensions: int | None = None
    server: str | None = None
    max_batch_size: int | None = None
    max_batch_tokens: int | None = None
    tokenizer: str = "estimate"
    truncate: str | None = None
