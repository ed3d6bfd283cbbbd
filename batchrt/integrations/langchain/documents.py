"""Documents of LangChain's as rows: dicts with `id`, `page_content` and `metadata`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.documents import Document

__all__ = ["document_from_langchain", "document_to_langchain"]


def document_from_langchain(document: Document) -> dict[str, Any]:
    """Return a document as a row; other fields of a subclass are members of the row too."""
    fields = {name: getattr(document, name) for name in type(document).model_fields if name != "type"}
    return {**fields, "metadata": dict(document.metadata)}


def document_to_langchain(row: Mapping[str, Any]) -> Document:
    """Return a row with `page_content`, `metadata` and `id` (the last two may be missing) as a document.

    Raises:
        KeyError: there is no `page_content`.
    """
    fields = {name: row[name] for name in ("metadata", "id") if row.get(name) is not None}
    return Document(page_content=row["page_content"], **fields)
