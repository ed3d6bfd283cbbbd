"""A small server of embeddings: `python -m benchmarks.studies.gpu_embedding_server MODEL --port N`.

`transformers serve` has no `/v1/embeddings`, and the servers that have one bring a stack of their own. This
one is no product, but it does what they do with a list: one request is one batch on the device, and requests
take turns. It does not merge requests, as TEI and Infinity do; so it shows what lists are worth, and not how
good such a server is.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from typing import Any

__all__ = ["application", "main"]

_LONGEST = 512


class _Encoder:
    """Make vectors of texts: the mean of the last layer, normalized."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).to(self._device).eval()
        self._turn = threading.Lock()

    def encode(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Return a vector for each text, and the number of tokens."""
        torch = self._torch
        found = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt"
        )
        mask = found["attention_mask"]
        with self._turn, torch.inference_mode():
            states = self._model(
                input_ids=found["input_ids"].to(self._device), attention_mask=mask.to(self._device)
            ).last_hidden_state.float()
            weights = mask.to(self._device).unsqueeze(-1).float()
            means = (states * weights).sum(1) / weights.sum(1)
            vectors = torch.nn.functional.normalize(means, dim=-1).cpu().tolist()
        return vectors, int(mask.sum())


def application(folder: str) -> Any:
    """Return the server as an ASGI application."""
    import anyio.to_thread
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    encoder = _Encoder(folder)

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def embed(request: Request) -> JSONResponse:
        body = await request.json()
        given = body["input"]
        texts = [given] if isinstance(given, str) else given
        vectors, tokens = await anyio.to_thread.run_sync(encoder.encode, texts)
        data = [
            {"object": "embedding", "index": place, "embedding": vector}
            for place, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "model": body["model"], "data": data, "usage": usage})

    routes = [Route("/health", health), Route("/v1/embeddings", embed, methods=["POST"])]
    return Starlette(routes=routes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until the process is ended."""
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.gpu_embedding_server")
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(arguments)
    uvicorn.run(application(options.model), host="127.0.0.1", port=options.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
