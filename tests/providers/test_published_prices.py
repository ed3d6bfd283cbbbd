"""Published prices: those of genai-prices, in our form, without a request."""

from __future__ import annotations

import socket
import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import genai_prices
import pytest
from genai_prices import calc_price
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from batchrt import ChatOpenAI, OpenAIEmbeddings, Price, Usage, published_prices
from batchrt.providers.published_prices import price_source

OPENAI = "https://api.openai.com/v1"
HOSTS = {
    "openai": OPENAI,
    "anthropic": "https://api.anthropic.com/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta/openai",
    "deepseek": "https://api.deepseek.com",
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse each connection and each lookup of a name."""

    def refuse(*_args: object, **_options: object) -> None:
        pytest.fail("a price was looked up on the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def price_of(monkeypatch: pytest.MonkeyPatch, prices: Any, **options: Any) -> Price | None:
    """Return the price of a model that genai-prices has with these `prices`."""
    model = ModelInfo(id="m", match=ClauseEquals(equals="m"), prices=prices, **options)
    provider = Provider(id="p", name="P", api_pattern=r"http://p\.test", models=[model])
    monkeypatch.setattr("genai_prices.data_snapshot._custom_snapshot", DataSnapshot([provider], False))
    return published_prices("m", base_url="http://p.test/v1").get("m")


def test_published_prices_agree_with_the_package() -> None:
    """The cost of a usage, with cached tokens, writes, audio and tiers, is what genai-prices computes."""
    compared = 0
    for provider in get_snapshot().providers:
        url = HOSTS.get(provider.id)
        for model in provider.models if url else ():
            price = published_prices(model.id, base_url=url).get(model.id)
            if price is None or isinstance(model.prices, list):
                continue
            for tokens in (1_000, 150_000, 300_000):
                for tier, context in ((None, None), ("flex", {"service_tier": "flex"})):
                    if tier is not None and tier not in price.tiers:
                        continue
                    usage = Usage(tokens, 500, tokens + 500, cached_input_tokens=200, service_tier=tier)
                    theirs = calc_price(
                        genai_prices.Usage(input_tokens=tokens, output_tokens=500, cache_read_tokens=200),
                        model.id,
                        provider_api_url=url,
                        price_context=context,
                    )
                    if theirs.model.id == model.id:
                        assert price.of_usage(usage) == pytest.approx(float(theirs.total_price)), model.id
                        compared += 1
    assert compared > 1000


def test_published_prices_of_models_by_their_own_address() -> None:
    """A model's address says the provider; the same name at another address has no price."""
    chat, local = ChatOpenAI("gpt-4o", api_key="k"), ChatOpenAI("gpt-4o", base_url="http://127.0.0.1:1/v1")
    embeddings = OpenAIEmbeddings("text-embedding-3-small", api_key="k")
    prices = published_prices(chat, embeddings)
    assert list(prices) == ["gpt-4o", "text-embedding-3-small"]
    assert prices["gpt-4o"].cached_input == prices["gpt-4o"].input / 2
    assert prices["text-embedding-3-small"].output == 0
    assert published_prices(local) == {}
    assert published_prices("gpt-4o", base_url="http://127.0.0.1:1/v1") == {}
    assert published_prices("gpt-4o") == published_prices("gpt-4o", base_url=OPENAI) != {}


def test_published_prices_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without an address is looked up where `ChatOpenAI` would send it."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert published_prices("gpt-4o") == {}


@pytest.mark.parametrize("name", ["no-such-model", "", "moderation", "whisper-1", "gpt-image-1", "tts-1"])
def test_published_prices_leave_out_what_tokens_do_not_tell(name: str) -> None:
    """Unknown models, models without a price, and those billed by images, hours or characters."""
    assert published_prices(name) == {}


def test_published_prices_have_tiers_and_long_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tier has its own prices; a tier priced like the others is left out."""
    tiered = TieredPrices(base=Decimal(1), tiers=[Tier(start=100, price=Decimal(2))])
    price = price_of(
        monkeypatch,
        ModelPrice(input_mtok=tiered, output_mtok=Decimal(4), cache_write_mtok=Decimal("1.25")),
        price_variants=[
            PriceVariant({"service_tier": "default"}, ModelPrice()),
            PriceVariant({"service_tier": "flex"}, ModelPrice(output_mtok=Decimal(3))),
            PriceVariant({"processing": "batch"}, ModelPrice(input_mtok=Decimal("0.5"))),
            PriceVariant({"speed": "fast"}, ModelPrice(input_mtok=Decimal(9))),
            PriceVariant({"service_tier": "x", "speed": "fast"}, ModelPrice(input_mtok=Decimal(9))),
        ],
    )
    long = Price(2.0, 4.0, cached_input=2.0, cache_write=1.25)
    flex = Price(
        1.0,
        3.0,
        cached_input=1.0,
        cache_write=1.25,
        long_context={100: Price(2.0, 3.0, cached_input=2.0, cache_write=1.25)},
    )
    batch = Price(0.5, 4.0, cached_input=0.5, cache_write=1.25)
    assert price == Price(
        1.0,
        4.0,
        cached_input=1.0,
        cache_write=1.25,
        tiers={"flex": flex, "batch": batch},
        long_context={100: long},
    )


def test_published_prices_of_the_day_are_the_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A price of some hours holds all day, since a run may reach into them; one of later years does not."""
    low, high, later = (ModelPrice(input_mtok=Decimal(n), output_mtok=Decimal(n)) for n in (1, 2, 9))
    night = TimeOfDateConstraint(time(1, tzinfo=UTC), time(3, tzinfo=UTC))
    coming = StartDateConstraint(date(datetime.now(UTC).year + 2, 1, 1))
    prices = [
        ConditionalPrice(prices=low),
        ConditionalPrice(night, prices=high),
        ConditionalPrice(coming, prices=later),
    ]
    assert price_of(monkeypatch, prices) == Price(2.0, 2.0, cached_input=2.0)


@pytest.mark.parametrize("unit", ["requests_kcount", "input_image_mtok", "output_reasoning_mtok"])
def test_published_prices_leave_out_models_with_other_units(
    monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    """A price of each request, for example, would be missing from the cost."""
    prices = {"input_mtok": Decimal(1), "output_mtok": Decimal(1)}
    assert price_of(monkeypatch, ModelPrice(**prices)) is not None
    assert price_of(monkeypatch, ModelPrice(**prices, **{unit: Decimal(5)})) is None
    assert price_of(monkeypatch, ModelPrice()) is None


def test_published_prices_use_prices_that_were_fetched() -> None:
    """A snapshot that `UpdatePrices` has put in place is used."""
    model = ModelInfo(
        id="gpt-4o", match=ClauseEquals(equals="gpt-4o"), prices=ModelPrice(input_mtok=Decimal(7))
    )
    provider = Provider(id="openai", name="O", api_pattern=r"https://api\.openai\.com", models=[model])
    set_custom_snapshot(DataSnapshot([provider], from_auto_update=True))
    try:
        assert published_prices("gpt-4o")["gpt-4o"].input == 7
    finally:
        set_custom_snapshot(None)


def test_published_prices_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says how to get it."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(ImportError, match=r"install batchrt\[prices\]"):
        published_prices("gpt-4o")


def test_price_source_names_the_version() -> None:
    """Prices are as old as the package."""
    assert price_source() == f"genai-prices {genai_prices.__version__}"
