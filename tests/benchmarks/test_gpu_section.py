"""The section of the docs about a GPU server, from its study's JSON."""

from __future__ import annotations

from typing import Any

from benchmarks.studies.gpu_clients import CLIENTS, Work, inputs_for
from benchmarks.studies.gpu_model import SIZES, words
from benchmarks.studies.gpu_section import section
from benchmarks.studies.gpu_server import plans


def run(client: str, cap: int | str, rate: float, **more: Any) -> dict[str, Any]:
    figures = {
        "wall": 10.0,
        "failed": 0,
        "errors": {},
        "tokens_per_second": rate,
        "items_per_second": rate / 64,
    }
    seconds = {"median": 1.5, "p95": 2.5}
    return {"kind": "chat", "client": client, "cap": cap, "items": 100, **figures, **seconds, **more}


def document(*runs: dict[str, Any]) -> dict[str, Any]:
    models = {
        "size": "1b",
        "chat": {"architecture": "LlamaForCausalLM", "weights": 1_038_000_000},
        "embeddings": {"architecture": "BertModel", "weights": 110_000_000},
        "device": {"name": "A card", "memory_gib": 80.0, "cuda": "13.0"},
    }
    return {
        "machine": {
            "date": "2027-01-02T03:04",
            "usable_cores": 16,
            "cpu": "A CPU",
            "python": "CPython 3.12.3",
        },
        "versions": {"torch": "2.11.0", "langchain-core": None},
        "plan": {"max_tokens": 64, "per_list": 64},
        "models": models,
        "runs": list(runs),
        "notes": ["chat: the time was over in round 2"],
    }


def test_gpu_section_has_medians_failures_and_notes() -> None:
    """A row has the medians of its rounds, its failures by class, and why a figure is missing."""
    text = section(
        document(
            *(run("batchrt", 16, rate) for rate in (900, 1_000, 1_400)),
            run("openai", 16, 950, failed=3, errors={"APITimeoutError: slow": 3}),
            {"kind": "chat", "client": "langchain", "cap": 16, "items": 9, "note": "not finished after 90 s"},
        )
    )
    assert "A card, 80 GiB, CUDA 13.0" in text
    assert "torch 2.11.0. " in text
    assert "langchain-core" not in text
    assert "| 16 | batchrt | 1,000 | 15.6 | 1.50 | 2.50 | 0 |" in text
    assert "| 16 | LangChain `abatch` | - | - | - | - | not finished after 90 s |" in text
    assert "| 3 of 100 (APITimeoutError) |" in text
    assert text.endswith("- chat: the time was over in round 2\n")
    assert "texts/s" not in text


def test_gpu_section_compares_auto_with_the_best_fixed_number() -> None:
    """Of batchrt's own figures; without one of both there is no such sentence."""
    fixed = (run("batchrt", 16, 500), run("batchrt", 64, 2_000), run("openai", 256, 9_000))
    text = section(document(*fixed, run("batchrt", "auto", 1_900)))
    assert (
        'For chat, `max_concurrency="auto"` has 95 % of the throughput of the best fixed number, 64.' in text
    )
    assert "best fixed" not in section(document(*fixed))


def test_gpu_clients_get_the_same_inputs() -> None:
    """Prompts are words that the tokenizer has, and each client gets the same for a seed."""
    assert len(set(words())) == len(words()) == 31_996
    common = {"base_url": "", "model": "", "max_tokens": 4, "per_list": 8, "items": 20}
    given = [
        inputs_for(Work(kind="chat", client=client, cap=1, seed=seed, **common))  # type: ignore[arg-type]
        for client, seed in (*((client, 1) for client in CLIENTS), ("batchrt", 2))
    ]
    assert given[0] == given[1] == given[2] != given[3]
    assert set(" ".join(given[0]).split()) <= set(words())
    assert set(plans) == set(SIZES)
