"""Documents as rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document

from batchrt.integrations.langchain import document_from_langchain, document_to_langchain


@given(st.text(), st.none() | st.text(min_size=1), st.dictionaries(st.text(), st.integers() | st.text()))
def test_documents_come_back_equal(text: str, identifier: str | None, metadata: dict[str, Any]) -> None:
    """Content, metadata and id, by way of a row."""
    document = Document(page_content=text, id=identifier, metadata=metadata)
    row = document_from_langchain(document)
    assert row == {"page_content": text, "id": identifier, "metadata": metadata}
    assert document_to_langchain(row) == document


def test_documents_need_a_content() -> None:
    """A row without one is not made an empty document."""
    assert document_to_langchain({"page_content": "x"}) == Document(page_content="x")
    with pytest.raises(KeyError, match="page_content"):
        document_to_langchain({"text": "x"})
