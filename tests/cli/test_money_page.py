"""The page on prices, dry runs and settings: its examples work, and it names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from batchrt.cli.main import app
from batchrt.cli.profile_options import OPTIONS
from batchrt.cli.profiles import load_profile
from batchrt.cli.settings_file import read_settings_file
from tests.cli.conftest import Command

PAGE = (Path(__file__).parents[2] / "docs" / "money.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("command", ["run", "embed"])
@pytest.mark.parametrize("name", [None, "local", "groq"])
def test_page_settings_are_valid(tmp_path: Path, command: str, name: str | None) -> None:
    """For each command and profile."""
    path = tmp_path / "batchrt.toml"
    path.write_text(block("toml"))
    profile = load_profile([read_settings_file(path)], command, name)  # type: ignore[arg-type]
    assert profile.name == (name or "local")
    assert profile.options["requests_per_minute"].value == 600
    assert (profile.key is not None) == (name == "groq")


def test_page_names_each_setting() -> None:
    """In the order of the code: shared ones, those of `run`, those of `embed`."""
    text = PAGE.split("The names in files are ")[1].split("\n\n")[0]
    assert re.findall(r"`(\w+)`", text.replace("`run`", "").replace("`embed`", "")) == list(
        dict.fromkeys((*OPTIONS["run"], *OPTIONS["embed"]))
    )


def test_page_python_runs_without_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimate and published prices need no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0")
    (tmp_path / "tickets.csv").write_text("text\nhello\nworld\n")
    names: dict[str, object] = {}
    exec(block("python"), names)
    estimate = names["estimate"]
    assert getattr(estimate, "to_send", None) == 2
    assert getattr(estimate, "max_cost", None)


def test_page_options_exist(command: Command) -> None:
    """Each that it names is in the help of a command."""
    assert app.info.name == "batchrt"
    known = "".join(command(name, "--help").out for name in ("run", "embed", "config"))
    assert {option for option in re.findall(r"--[a-z][a-z-]+", PAGE) if option not in known} == set()
