"""BatchOpenAIEmbeddings: an embedding model for LangChain on our client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.embeddings import Embeddings

from batchrt.providers.embeddings.model import OpenAIEmbeddings

if TYPE_CHECKING:
    from typing import Unpack

    from batchrt.providers.options import ModelOptions

__all__ = ["BatchOpenAIEmbeddings"]


class BatchOpenAIEmbeddings(Embeddings):
    """Be LangChain's `Embeddings`, for vector stores and retrievers, on `batchrt.OpenAIEmbeddings`.

    Texts are packed by the server's limits and sent concurrently, and vectors come as base64. With
    `share_lists=True` the queries of concurrent calls share requests too.

    Args:
        model: the model's name, or a `batchrt.OpenAIEmbeddings`, which then has the options.
        options: those of `batchrt.OpenAIEmbeddings`.
    """

    def __init__(
        self, model: str | OpenAIEmbeddings, *, dimensions: int | None = None, **options: Unpack[ModelOptions]
    ) -> None:
        if isinstance(model, OpenAIEmbeddings):
            if options or dimensions is not None:
                raise TypeError("give the options to the model that you pass")
            self.model: OpenAIEmbeddings = model
        else:
            self.model = OpenAIEmbeddings(model, dimensions=dimensions, **options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        return self.model.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a text."""
        return self.model.embed_query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        return await self.model.aembed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Return the vector of a text."""
        return await self.model.aembed_query(text)
