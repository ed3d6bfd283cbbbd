"""Run LLM work over many inputs: LCEL-style runnables on an async batch runtime whose limits hold.

from batchrt import ChatOpenAI, ChatPromptTemplate, StrOutputParser

chain = ChatPromptTemplate.from_template("Translate: {text}") | ChatOpenAI("gpt-5-mini") | StrOutputParser()
outputs = await chain.abatch(rows, config={"max_concurrency": 50})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batchrt.config import RunConfig, RunnableConfig
from batchrt.errors import (
    AuthenticationError,
    BadRequestError,
    BatchError,
    BlockedEventLoopError,
    ConnectionFailedError,
    ContextLengthError,
    DeadlineExceededError,
    InputError,
    ItemTimeoutError,
    JournalError,
    ListLengthError,
    MalformedResponseError,
    MissingFieldError,
    OutageError,
    OutputClosedError,
    OutputError,
    OutputParserError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    RecordedError,
    RecursionLimitError,
    RequestTimeoutError,
    RunStoppedError,
    ServerError,
    SpendingLimitError,
    StrayCancelledError,
    TokenizerError,
)
from batchrt.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    Message,
    SystemMessage,
    ToolMessage,
    Usage,
)
from batchrt.prices import Price
from batchrt.runnables.base import Runnable, RunnableLike
from batchrt.runnables.binding import RunnableBinding
from batchrt.runnables.branch import RunnableBranch
from batchrt.runnables.chat_prompts import ChatPromptTemplate
from batchrt.runnables.chunk_sums import add_chunks
from batchrt.runnables.configurable import (
    ConfigurableField,
    RunnableConfigurableAlternatives,
    RunnableConfigurableFields,
)
from batchrt.runnables.each import RunnableEach
from batchrt.runnables.examples import ExampleSelector
from batchrt.runnables.fallbacks import RunnableWithFallbacks
from batchrt.runnables.few_shot import FewShotChatMessagePromptTemplate, FewShotPromptTemplate
from batchrt.runnables.generator import RunnableGenerator
from batchrt.runnables.lambdas import RunnableLambda, chain
from batchrt.runnables.message_prompts import (
    AIMessagePromptTemplate,
    HumanMessagePromptTemplate,
    MessagesPlaceholder,
    SystemMessagePromptTemplate,
)
from batchrt.runnables.parallel import RunnableMap, RunnableParallel
from batchrt.runnables.parsers import (
    BaseOutputParser,
    JsonOutputParser,
    PydanticOutputParser,
    StrOutputParser,
)
from batchrt.runnables.passthrough import RunnableAssign, RunnablePassthrough, RunnablePick
from batchrt.runnables.prompt_values import ChatPromptValue, PromptValue, StringPromptValue
from batchrt.runnables.prompts import PromptTemplate
from batchrt.runnables.retry import RunnableRetry
from batchrt.runnables.router import RouterRunnable
from batchrt.runnables.sequence import RunnableSequence
from batchrt.runtime.chunk_stream import ChunkStream, ItemChunkStream
from batchrt.runtime.outcome import BatchResult, Outcome
from batchrt.runtime.outcome_iterator import OutcomeIterator, RunStatistics
from batchrt.runtime.stream import Stream
from batchrt.tool_calls import InvalidToolCall, ToolCall, ToolCallChunk

if TYPE_CHECKING:
    from batchrt.jobs.estimate import JobEstimate, estimate_job
    from batchrt.jobs.job import Job
    from batchrt.jobs.output import OutputLayout
    from batchrt.jobs.report import JobReport
    from batchrt.limits.abort_policy import AbortPolicy
    from batchrt.limits.error_kinds import FailureKind
    from batchrt.limits.events import (
        Admitted,
        BudgetEmpty,
        CooledDown,
        LimitChanged,
        ProviderDown,
        ProviderUp,
        QuotaEvent,
        Retried,
        Sent,
        SharedQuotaAway,
        SharedQuotaBack,
    )
    from batchrt.limits.quota import Quota
    from batchrt.limits.quota_statistics import LimitStatus, QuotaStatistics, SharedQuotaStatus
    from batchrt.limits.retry_budget import RetryBudget
    from batchrt.providers.chat.model import ChatOpenAI
    from batchrt.providers.completions.model import OpenAI
    from batchrt.providers.embeddings.arrays import EmbeddingBlock
    from batchrt.providers.embeddings.model import OpenAIEmbeddings
    from batchrt.providers.http.httpx_transport import BatchrtTransport
    from batchrt.providers.published_prices import published_prices
    from batchrt.response_cache import CacheStatistics, ResponseCache
    from batchrt.runnables.graph import Graph
    from batchrt.runnables.list_parsers import (
        CommaSeparatedListOutputParser,
        MarkdownListOutputParser,
        NumberedListOutputParser,
    )
    from batchrt.runnables.listeners import ListenedRun, RunnableWithListeners
    from batchrt.runtime.retry import RetryPolicy

__all__ = [
    "AIMessage",
    "AIMessageChunk",
    "AIMessagePromptTemplate",
    "AbortPolicy",
    "Admitted",
    "AuthenticationError",
    "BadRequestError",
    "BaseOutputParser",
    "BatchError",
    "BatchResult",
    "BatchrtTransport",
    "BlockedEventLoopError",
    "BudgetEmpty",
    "CacheStatistics",
    "ChatOpenAI",
    "ChatPromptTemplate",
    "ChatPromptValue",
    "ChunkStream",
    "CommaSeparatedListOutputParser",
    "ConfigurableField",
    "ConnectionFailedError",
    "ContextLengthError",
    "CooledDown",
    "DeadlineExceededError",
    "EmbeddingBlock",
    "ExampleSelector",
    "FailureKind",
    "FewShotChatMessagePromptTemplate",
    "FewShotPromptTemplate",
    "Graph",
    "HumanMessage",
    "HumanMessagePromptTemplate",
    "InputError",
    "InvalidToolCall",
    "ItemChunkStream",
    "ItemTimeoutError",
    "Job",
    "JobEstimate",
    "JobReport",
    "JournalError",
    "JsonOutputParser",
    "LimitChanged",
    "LimitStatus",
    "ListLengthError",
    "ListenedRun",
    "MalformedResponseError",
    "MarkdownListOutputParser",
    "Message",
    "MessagesPlaceholder",
    "MissingFieldError",
    "NumberedListOutputParser",
    "OpenAI",
    "OpenAIEmbeddings",
    "OutageError",
    "Outcome",
    "OutcomeIterator",
    "OutputClosedError",
    "OutputError",
    "OutputLayout",
    "OutputParserError",
    "Price",
    "PromptTemplate",
    "PromptValue",
    "ProviderDown",
    "ProviderError",
    "ProviderUp",
    "PydanticOutputParser",
    "Quota",
    "QuotaEvent",
    "QuotaExhaustedError",
    "QuotaStatistics",
    "RateLimitError",
    "RecordedError",
    "RecursionLimitError",
    "RequestTimeoutError",
    "ResponseCache",
    "Retried",
    "RetryBudget",
    "RetryPolicy",
    "RouterRunnable",
    "RunConfig",
    "RunStatistics",
    "RunStoppedError",
    "Runnable",
    "RunnableAssign",
    "RunnableBinding",
    "RunnableBranch",
    "RunnableConfig",
    "RunnableConfigurableAlternatives",
    "RunnableConfigurableFields",
    "RunnableEach",
    "RunnableGenerator",
    "RunnableLambda",
    "RunnableLike",
    "RunnableMap",
    "RunnableParallel",
    "RunnablePassthrough",
    "RunnablePick",
    "RunnableRetry",
    "RunnableSequence",
    "RunnableWithFallbacks",
    "RunnableWithListeners",
    "Sent",
    "ServerError",
    "SharedQuotaAway",
    "SharedQuotaBack",
    "SharedQuotaStatus",
    "SpendingLimitError",
    "StrOutputParser",
    "StrayCancelledError",
    "Stream",
    "StringPromptValue",
    "SystemMessage",
    "SystemMessagePromptTemplate",
    "TokenizerError",
    "ToolCall",
    "ToolCallChunk",
    "ToolMessage",
    "Usage",
    "add_chunks",
    "chain",
    "estimate_job",
    "published_prices",
]


# Clients import an HTTP library, which code that only composes functions should not pay for.
_HOMES = {
    "NumberedListOutputParser": "batchrt.runnables.list_parsers",
    "MarkdownListOutputParser": "batchrt.runnables.list_parsers",
    "CommaSeparatedListOutputParser": "batchrt.runnables.list_parsers",
    "RunnableWithListeners": "batchrt.runnables.listeners",
    "ListenedRun": "batchrt.runnables.listeners",
    "ResponseCache": "batchrt.response_cache",
    "CacheStatistics": "batchrt.response_cache",
    "BatchrtTransport": "batchrt.providers.http.httpx_transport",
    "ChatOpenAI": "batchrt.providers.chat.model",
    "Job": "batchrt.jobs.job",
    "JobEstimate": "batchrt.jobs.estimate",
    "JobReport": "batchrt.jobs.report",
    "OutputLayout": "batchrt.jobs.output",
    "EmbeddingBlock": "batchrt.providers.embeddings.arrays",
    "OpenAI": "batchrt.providers.completions.model",
    "OpenAIEmbeddings": "batchrt.providers.embeddings.model",
    "AbortPolicy": "batchrt.limits.abort_policy",
    "Graph": "batchrt.runnables.graph",
    "FailureKind": "batchrt.limits.error_kinds",
    "Quota": "batchrt.limits.quota",
    "LimitStatus": "batchrt.limits.quota_statistics",
    "QuotaStatistics": "batchrt.limits.quota_statistics",
    "SharedQuotaStatus": "batchrt.limits.quota_statistics",
    "RetryBudget": "batchrt.limits.retry_budget",
    "RetryPolicy": "batchrt.runtime.retry",
    "estimate_job": "batchrt.jobs.estimate",
    "published_prices": "batchrt.providers.published_prices",
}
_HOMES |= dict.fromkeys(
    (
        "Admitted",
        "BudgetEmpty",
        "CooledDown",
        "LimitChanged",
        "ProviderDown",
        "ProviderUp",
        "QuotaEvent",
        "Retried",
        "Sent",
        "SharedQuotaAway",
        "SharedQuotaBack",
    ),
    "batchrt.limits.events",
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'batchrt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
