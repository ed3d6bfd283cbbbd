"""What may be wrong with an address that nothing was answered from."""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import urlsplit

from batchrt.cli.tally import Tally

__all__ = ["url_hint"]

_SUSPICIOUS: Final = ("BadRequestError", "MalformedResponseError")
"""What a path that does not exist ends in: a 404 or 405, or a page in place of an answer."""
_ENDPOINT: Final = re.compile(r"/(chat/completions|completions|embeddings|responses|chat)$")
_VERSION: Final = re.compile(r"/(v\d+\w*|openai)(?=/|$)")
"""Where an API of this kind begins: `/v1` mostly, `/openai` with Azure."""


def url_hint(base_url: str | None, tally: Tally) -> str:
    """Return what is probably wrong with `--base-url`; nothing if it looks right, or answers came."""
    given = base_url or os.environ.get("OPENAI_BASE_URL") or ""
    if tally.answered or not given or not any(name in tally.kinds for name in _SUSPICIOUS):
        return ""
    problem = _problem(given)
    return f"{'--base-url' if base_url else 'OPENAI_BASE_URL'} {problem}" if problem else ""


def _problem(url: str) -> str:
    try:
        path = urlsplit(url.strip()).path.rstrip("/")
    except ValueError:
        return ""
    endpoint = _ENDPOINT.search(path)
    if endpoint is not None:
        return f"ends with {endpoint[0]}, which is added to it; leave that out"
    versions = _VERSION.findall(path)
    if len(versions) > len(set(versions)):
        return f"has /{versions[-1]} twice; leave one out"
    return "" if versions else "has no /v1; most servers want it at the end"
