"""ChainMapper, as Ray Data uses it, without Ray."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping

import pyarrow as pa
import pytest

from batchrt import ChatOpenAI, RunnableLambda, StrOutputParser
from batchrt.integrations.ray import ChainMapper
from batchrt.testing import MockProvider

CANARY = "sk-canary-0123456789"


def test_chain_mapper_maps_blocks() -> None:
    """Rows keep their place and columns; rows without an input and rows that fail have errors."""

    async def invert(number: int) -> float:
        return 1 / number

    mapper = ChainMapper(RunnableLambda(invert), input=lambda row: int(row["text"]), output_columns="inverse")
    table = mapper(pa.table({"text": ["2", "x", "0", "4"]}))
    mapper.close()
    assert table["text"].to_pylist() == ["2", "x", "0", "4"]
    assert table["inverse"].to_pylist() == [0.5, None, None, 0.25]
    assert table["error_type"].to_pylist() == [None, "ValueError", "ZeroDivisionError", None]


def test_chain_mapper_refuses_blocks_of_other_kinds() -> None:
    """A forgotten batch_format is named."""
    mapper = ChainMapper(RunnableLambda(lambda row: row))
    with pytest.raises(TypeError, match="batch_format"):
        mapper({"text": ["a"]})
    mapper.close()


def test_chain_mapper_takes_keys_from_the_secret_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is in no pickle of the chain, and the worker's own is sent."""
    provider = MockProvider(api_key=CANARY)
    with provider.serve() as server:
        monkeypatch.setenv("OPENAI_API_KEY", CANARY)
        chain = ChatOpenAI("model", base_url=server.base_url, api_key=CANARY) | StrOutputParser()
        pickled = pickle.dumps(chain)
        assert CANARY.encode() not in pickled
        monkeypatch.delenv("OPENAI_API_KEY")

        def read() -> Mapping[str, str]:
            return {"OPENAI_API_KEY": CANARY}

        mapper = ChainMapper(pickled, input="text", secrets=read)
        table = mapper(pa.table({"text": ["hello"]}))
        mapper.close()
    assert os.environ.pop("OPENAI_API_KEY") == CANARY
    assert table["error"].to_pylist() == [None]
    assert table["output"].to_pylist() == [provider.answer_to("hello")]
