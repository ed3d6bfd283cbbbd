"""Models of random weights, made on the spot: `python -m benchmarks.studies.gpu_model FOLDER [--size tiny]`.

What a server of language models does in a second depends on the shapes of its weights and not on their
values, so nothing has to be downloaded. Two folders are made, `chat` and `embeddings`, each with a tokenizer
of made-up words, and the last line of the output describes them and the device, as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["SIZES", "main", "words"]

SIZES: dict[str, dict[str, dict[str, int]]] = {
    # The shapes of Llama 3.2 with a billion weights, and of BERT base.
    "1b": {
        "chat": {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
        },
        "embeddings": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
    },
    "tiny": {
        "chat": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
        },
        "embeddings": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
    },
}
_VOCABULARY = 32_000
_SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")
_POSITIONS = 4_096
_TEMPLATE = "{% for message in messages %}[BOS] {{ message['content'] }} {% endfor %}[BOS] "


def words(count: int = _VOCABULARY - len(_SPECIAL)) -> list[str]:
    """Return made-up words of three syllables, none twice."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    return ["".join(parts) for parts in itertools.islice(itertools.product(syllables, repeat=3), count)]


def _tokenizer() -> Any:
    """Return a tokenizer for which each word is a token: lengths are known beforehand."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*_SPECIAL, *words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pad, unknown, begin, end = _SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=unknown,
        bos_token=begin,
        eos_token=end,
        chat_template=_TEMPLATE,
        model_max_length=_POSITIONS,
    )


def _chat_model(shape: dict[str, int]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **shape,
        vocab_size=_VOCABULARY,
        max_position_embeddings=_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    return LlamaForCausalLM(config)


def _embedding_model(shape: dict[str, int]) -> Any:
    from transformers import BertConfig, BertModel

    config = BertConfig(**shape, vocab_size=_VOCABULARY, max_position_embeddings=512, pad_token_id=0)
    return BertModel(config, add_pooling_layer=False)


def make(folder: Path, size: str) -> dict[str, Any]:
    """Make both models below `folder`, and return what they are and what they run on."""
    import torch

    on_gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    made: dict[str, Any] = {"size": size}
    makers = {"chat": _chat_model, "embeddings": _embedding_model}
    for kind, maker in makers.items():
        began = time.perf_counter()
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda" if on_gpu else "cpu"):
            model = maker(SIZES[size][kind])
        model.save_pretrained(folder / kind)
        _tokenizer().save_pretrained(folder / kind)
        weights = sum(tensor.numel() for tensor in model.parameters())
        made[kind] = {
            "architecture": type(model).__name__,
            "weights": weights,
            "dtype": "bfloat16",
            "seconds": round(time.perf_counter() - began, 1),
        }
    made["device"] = _device(torch)
    return made


def _device(torch: Any) -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"name": "CPU", "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the models, and print what they are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.gpu_model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="1b")
    options = parser.parse_args(arguments)
    print(json.dumps(make(options.folder, options.size)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
