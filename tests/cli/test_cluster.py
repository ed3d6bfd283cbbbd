"""`batchrt run --ray`: what is refused before a cluster is joined; without Ray, which `tests` do not have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batchrt.cli import cluster
from batchrt.cli.errors import UsageError
from batchrt.cli.option_values import read_ray, with_ray_address
from tests.cli.conftest import Command


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text('{"n": 1}\n')
    return path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that Ray is there."""
    monkeypatch.setattr(cluster, "find_spec", lambda _: object())


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("--ray", "--ray=local"),
        ("--ray in.csv", "--ray=local in.csv"),
        ("in.csv --ray -o out.csv", "in.csv --ray=local -o out.csv"),
        ("--ray auto in.csv", "--ray auto in.csv"),
        ("--ray 10.0.0.1:6379 in.csv", "--ray 10.0.0.1:6379 in.csv"),
        ("--ray [::1]:6379", "--ray [::1]:6379"),
        ("--ray ray://head:10001", "--ray ray://head:10001"),
        ("--ray s3://bucket/in.csv", "--ray=local s3://bucket/in.csv"),
        ("--ray=auto", "--ray=auto"),
        ("-- --ray", "-- --ray"),
    ],
)
def test_cluster_address_may_be_left_out(given: str, spelled: str) -> None:
    """The next argument is taken for one only if it looks like one."""
    assert with_ray_address(given.split()) == spelled.split()


@pytest.mark.parametrize("address", ["in.csv", "", "http://head:8265", "head"])
def test_cluster_address_is_checked(address: str) -> None:
    """A file is none, nor is a dashboard."""
    with pytest.raises(UsageError, match="HOST:PORT"):
        read_ray(address)


def test_cluster_needs_ray(command: Command, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    result = command("run", rows, "-p", "{n}", "-m", "m", "--base-url", "http://localhost:1/v1", "--ray")
    assert result.code == 2
    assert 'pip install "batchrt[ray]"' in result.complaint


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ray", "-m", "mock"], "start batchrt mock, and give its address as --base-url"),
        (["--ray-workers", "2", "-m", "mock"], "add --ray"),
        (
            ["--ray", "auto", "-m", "m", "--base-url", "http+unix://%2Ftmp%2Fsocket/v1"],
            "the socket of --base-url is of this machine alone",
        ),
    ],
)
def test_cluster_refuses_what_cannot_hold_in_it(
    command: Command, rows: Path, options: list[str], said: str
) -> None:
    """Options are refused by name, with what to do instead."""
    result = command("run", rows, "-p", "{n}", *options)
    assert result.code == 2
    assert said in result.complaint


@pytest.mark.usefixtures("installed")
def test_cluster_is_not_given_the_key_of_a_profile(
    command: Command, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says where the key belongs."""
    settings = rows.parent / "batchrt.toml"
    settings.write_text('[profiles.a]\nmodel = "m"\nbase_url = "http://127.0.0.1:1/v1"\nkey_env = "MY_KEY"\n')
    monkeypatch.setenv("MY_KEY", "sk-canary-0123456789")
    result = command("run", rows, "-p", "{n}", "--config", settings, "--profile", "a", "--ray", "auto")
    assert result.code == 2
    assert "set OPENAI_API_KEY in the environment of the cluster's workers" in result.complaint
    assert "canary" not in result.err


@pytest.mark.usefixtures("installed")
def test_cluster_is_not_started_for_a_dry_run(command: Command, rows: Path) -> None:
    """Nothing of Ray is needed to see what would be sent."""
    options = ["-m", "m", "--base-url", "http://127.0.0.1:1/v1", "--ray", "--dry-run"]
    result = command("run", rows, "-p", "Say {n}", *options)
    assert (result.code, "dry run: nothing was sent" in result.out) == (0, True)


def test_cluster_is_not_imported_unless_asked_for() -> None:
    """The program does not load Ray, nor the modules for it."""
    script = "import sys, batchrt.cli.run; print([name for name in sys.modules if 'ray' in name.split('.')])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
