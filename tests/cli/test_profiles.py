"""Profiles: settings of a command from files, and mistakes in these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchrt import Price
from batchrt.cli.errors import UsageError
from batchrt.cli.profiles import Profile, load_profile
from batchrt.cli.settings_file import read_settings_file


def load(tmp_path: Path, *texts: str, command: Any = "run", name: str | None = None) -> Profile:
    files = []
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        files.append(read_settings_file(path))
    return load_profile(files, command, name)


def values(profile: Profile) -> dict[str, Any]:
    return {name: setting.value for name, setting in profile.options.items()}


def test_profile_later_files_and_the_named_table_go_first(tmp_path: Path) -> None:
    """Each setting by itself, with its origin."""
    user = 'model = "a"\nmax_retries = 1\npatience = 5\n[profiles.x]\npatience = 6\nmax_wait = 7'
    project = 'model = "b"\n[profiles.x]\nmax_wait = 8\n[profiles.y]\nmodel = "y"'
    profile = load(tmp_path, user, project)
    assert values(profile) == {"model": "b", "max_retries": 1, "patience": 5}
    profile = load(tmp_path, user, project, name="x")
    assert values(profile) == {"model": "b", "max_retries": 1, "patience": 6, "max_wait": 8}
    origins = {name: setting.origin for name, setting in profile.options.items()}
    assert origins == {
        "model": str(tmp_path / "1.toml"),
        "max_retries": str(tmp_path / "0.toml"),
        "patience": f"{tmp_path / '0.toml'} [profiles.x]",
        "max_wait": f"{tmp_path / '1.toml'} [profiles.x]",
    }


def test_profile_of_a_file_is_the_default_one(tmp_path: Path) -> None:
    """The later file's counts, and the command line's more."""
    text = 'profile = "x"\n[profiles.x]\nmodel = "x"\n[profiles.y]\nmodel = "y"'
    assert load(tmp_path, text).name == "x"
    assert load(tmp_path, text, 'profile = "y"').name == "y"
    assert values(load(tmp_path, text, 'profile = "y"', name="x")) == {"model": "x"}


def test_profile_of_vectors_has_a_table_of_its_own(tmp_path: Path) -> None:
    """The model at the top, and what is about answers, is that of `run`."""
    text = 'model = "chat"\ntemperature = 1\nmax_wait = 3\n[embed]\nmodel = "vectors"\ndimensions = 8'
    assert values(load(tmp_path, text, command="embed")) == {
        "max_wait": 3,
        "model": "vectors",
        "dimensions": 8,
    }
    assert values(load(tmp_path, text)) == {"model": "chat", "temperature": 1, "max_wait": 3}
    of_profile = "[profiles.x.embed]\nmax_wait = 4"
    assert values(load(tmp_path, text, of_profile, command="embed", name="x"))["max_wait"] == 4


def test_profile_tables_add_up(tmp_path: Path) -> None:
    """Headers, parameters and prices by their names."""
    first = '[headers]\nA = "1"\nB = "2"\n[options]\ntop_p = 0.5\n[prices.m]\ninput = 1\noutput = 2'
    second = '[headers]\nB = "3"\n[options]\nseed = 7\nmore = {x = [1]}\n'
    second += '[prices."n.1"]\ninput = 3\ncached_input = 0.5'
    profile = load(tmp_path, first, second)
    assert profile.defaults() == {
        "headers": ["A:1", "B:3"],
        "options": ["top_p=0.5", "seed=7", 'more={"x": [1]}'],
    }
    prices = {name: setting.value for name, setting in profile.prices.items()}
    assert prices == {"m": Price(1, 2), "n.1": Price(3, cached_input=0.5)}


def test_profile_key_goes_with_its_address(tmp_path: Path) -> None:
    """A later address without a key of its own does not get the key of the one before."""
    user = 'base_url = "https://a.test/v1"\nkey_env = "A_KEY"\n[profiles.x]\nbase_url = "https://x.test/v1"'
    key = load(tmp_path, user).key
    assert key is not None
    assert key[1].value == "A_KEY"
    assert load(tmp_path, user, name="x").key is None
    assert load(tmp_path, user, 'base_url = "https://b.test/v1"').key is None
    other = load(tmp_path, user, 'base_url = "https://b.test/v1"\nkey_file = "k"').key
    assert other is not None
    assert (other[0], other[1].value) == ("key_file", "k")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("modle = 'a'", r"0\.toml:1: modle is no setting: did you mean model\?"),
        ("\nprompt = 'a'", r"0\.toml:2: prompt is no setting: .*The names are base_url"),
        ("base-url = 'a'", "base-url is no setting: did you mean base_url"),
        ("model = 1", "model cannot be 1: should be a valid string"),
        ("max_retries = '3'", "max_retries cannot be '3': should be a valid integer"),
        ("max_retries = -1", "max_retries cannot be -1: should be greater than or equal to 0"),
        ("max_retries = true", "max_retries cannot be True"),
        ("max_tokens = 0", "max_tokens cannot be 0"),
        ("temperature = 'hot'", "temperature cannot be 'hot'"),
        ("temperature = nan", "temperature must be a finite number"),
        ("patience = inf", "patience must be a finite number"),
        ("max_concurrency = 'many'", "max_concurrency cannot be 'many'"),
        ("max_concurrency = 1.5", "max_concurrency cannot be 1.5"),
        ("max_concurrency = true", "cannot be True: should be a valid integer or 'auto'"),
        ("published_prices = 1", "published_prices cannot be 1"),
        ("model = 2025-01-01", "model cannot be datetime"),
        ("tokenizer = 'x'", "tokenizer cannot be 'x': should be 'estimate' or 'tiktoken'"),
        ("headers = 1", "headers must be a table, not 1"),
        ("[headers]\nX = 1", r"0\.toml:2: headers\.X must be text, not 1"),
        ("[options]\nx = 2025-01-01", r"options\.x has a value that JSON has not"),
        ("[options]\nx = nan", r"options\.x has a value that JSON has not"),
        ("prices = 3", "prices must be a table"),
        ("[prices]\nm = 3", r"prices\.m must be numbers per million tokens, as prices"),
        ("[prices.m]\ninput = '3'", r"prices\.m must be numbers per million tokens"),
        ("[prices.m]\ninput = -3", r"prices\.m cannot be used: a price's input must be 0 or more"),
        ("[prices.m]\noutput = 3", r"prices\.m lacks input"),
        ("[prices.m]\ninput = 3\nouput = 3", r"prices\.m has no ouput: did you mean output"),
        ("embed = 1", "embed must be a table"),
        ("[embed]\ntemperature = 1", r"embed\.temperature is no setting"),
        ("[embed]\ndimensions = 0", r"embed\.dimensions cannot be 0"),
        ("[embed.embed]\nmodel = 'a'", r"embed\.embed is no setting"),
        ("profiles = 1", "profiles must be a table"),
        ("[profiles]\nx = 1", r"profiles\.x must be a table of settings"),
        ("[profiles.x]\nmodle = 'a'", r"0\.toml:2: profiles\.x\.modle is no setting"),
        ("[profiles.x.profiles.y]\nmodel = 'a'", r"profiles\.x\.profiles is no setting"),
        ("[profiles.x.embed]\nmodle = 'a'", r"profiles\.x\.embed\.modle is no setting"),
        ("profile = 1", "profile must be the name of a profile"),
        ("profile = 'x'", r"there is no profile 'x' .*The names are none"),
        ("key_file = ''", "key_file must be the path of a file"),
        ("key_env = 3", "key_env must be the name of an environment variable, not 3"),
        ("key_env = 'A'\nkey_file = 'a'", "key_env and key_file name two keys"),
    ],
)
def test_profile_mistakes_name_the_key_and_the_remedy(tmp_path: Path, text: str, problem: str) -> None:
    """In each table, also of profiles that are not used."""
    with pytest.raises(UsageError, match=problem):
        load(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "api_key = 'sk-very-secret'",
        "key = 'sk-very-secret'",
        "[profiles.x]\napi_key = 'sk-very-secret'",
        "[headers]\nAuthorization = 'Bearer sk-very-secret'",
        "[headers]\nX-Api-Key = 'sk-very-secret'",
        "base_url = 'https://me:sk-very-secret@host/v1'",
    ],
)
def test_profile_refuses_keys_and_does_not_show_them(tmp_path: Path, text: str) -> None:
    """The file may be readable by others, and in a repository."""
    with pytest.raises(UsageError, match="no place for") as caught:
        load(tmp_path, text)
    assert "very-secret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_profile_that_is_not_there_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    """And the files that were read."""
    with pytest.raises(UsageError, match=r"there is no profile 'locl' \(.*0\.toml\): did you mean local\?"):
        load(tmp_path, "[profiles.local]", name="locl")
    with pytest.raises(UsageError, match=r"there is no profile 'x' \(no settings file\)"):
        load_profile([], "run", "x")
