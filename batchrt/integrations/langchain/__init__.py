"""LangChain both ways: its chains run by this runtime, and ours as its runnables and models.

    from batchrt.integrations.langchain import from_langchain

    chain = from_langchain(langchain_prompt | langchain_model | langchain_parser, native=True)
    outputs = await chain.abatch(rows, config={"max_concurrency": 50})

A LangChain runnable that is a step of ours (`ours | theirs`) is converted by itself. Needs the extra
`batchrt[langchain]`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batchrt.integrations.langchain.documents import document_from_langchain, document_to_langchain
from batchrt.integrations.langchain.messages import (
    message_from_langchain,
    message_to_langchain,
    messages_from_langchain,
    messages_to_langchain,
)
from batchrt.integrations.langchain.prompts import prompt_from_langchain, prompt_to_langchain
from batchrt.integrations.langchain.runnable import BatchRunnable, to_langchain
from batchrt.integrations.langchain.structure import LangChainChain, from_langchain

if TYPE_CHECKING:
    from batchrt.integrations.langchain.chat_model import BatchChatOpenAI
    from batchrt.integrations.langchain.embeddings import BatchOpenAIEmbeddings
    from batchrt.integrations.langchain.errors import OPENAI_ERRORS, openai_error

__all__ = [
    "OPENAI_ERRORS",
    "BatchChatOpenAI",
    "BatchOpenAIEmbeddings",
    "BatchRunnable",
    "LangChainChain",
    "document_from_langchain",
    "document_to_langchain",
    "from_langchain",
    "message_from_langchain",
    "message_to_langchain",
    "messages_from_langchain",
    "messages_to_langchain",
    "openai_error",
    "prompt_from_langchain",
    "prompt_to_langchain",
    "to_langchain",
]

adopt = from_langchain
export = to_langchain
adopt_message = message_from_langchain
"""The names that `batchrt/runnables/foreign.py` asks an integration for."""

# These import langchain-openai, which the rest does without.
_HOMES = {
    "BatchChatOpenAI": "chat_model",
    "BatchOpenAIEmbeddings": "embeddings",
    "OPENAI_ERRORS": "errors",
    "openai_error": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
