"""BatchChatOpenAI: a chat model for LangChain on our client."""

from __future__ import annotations

from typing import Any

from langchain_openai import ChatOpenAI
from pydantic import ConfigDict, Field, model_validator

from batchrt.integrations.langchain.completions import ChatRequests, clients
from batchrt.integrations.langchain.errors import translator
from batchrt.integrations.langchain.native import client_options
from batchrt.limits.quota import Quota
from batchrt.providers.http.client import Client
from batchrt.providers.options import LIMIT_OPTIONS

__all__ = ["BatchChatOpenAI"]


class BatchChatOpenAI(ChatOpenAI):
    """Be langchain-openai's `ChatOpenAI` whose requests our client sends.

    It takes all of that class's options, and everything of LangChain's works with it: `bind_tools`,
    `with_structured_output`, `create_agent`, callbacks, caches. Requests share the process's quota for their
    address, key and model: its cool-downs, learned limits and retries. In a function or a chain that batchrt
    runs, a request counts as a leaf of that run.

    Attributes:
        raise_openai_errors: raise openai's and LangChain's errors in place of ours; a mapping chooses them
            (see `batchrt/integrations/langchain/errors.py`).
        requests_per_minute, tokens_per_minute, requests_per_day, tokens_per_day, max_in_flight: limits of the
            quota; `"unchanged"`, the default, leaves them as they are.
        quota: a `Quota` in place of the shared one.
        retry_policy: a `RetryPolicy`: which failures are retried, and when.
        transport: an async transport of httpx's, for tests.
        max_response_bytes: bytes after which an answer is an error.

    Raises:
        ValueError: an option cannot be carried; the message names it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    raise_openai_errors: Any = False
    requests_per_minute: Any = "unchanged"
    tokens_per_minute: Any = "unchanged"
    requests_per_day: Any = "unchanged"
    tokens_per_day: Any = "unchanged"
    max_in_flight: Any = "unchanged"
    quota: Quota | None = None
    retry_policy: Any = None
    transport: Any = Field(default=None, exclude=True)
    max_response_bytes: int = 64 * 2**20

    @model_validator(mode="after")
    def _connect(self) -> BatchChatOpenAI:
        client = Client(
            **client_options(self),
            transport=self.transport,
            quota=self.quota,
            retry_policy=self.retry_policy,
            max_response_bytes=self.max_response_bytes,
            limits={name: getattr(self, name) for name in LIMIT_OPTIONS},
            model=self.model_name,
        )
        for name, value in clients(ChatRequests(client), self, translator(self.raise_openai_errors)).items():
            setattr(self, name, value)
        return self

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return false: a quota or a transport is not for another process."""
        return False
