"""Settings files: which are found, and what is said of one that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrt.cli.errors import UsageError
from batchrt.cli.settings_file import find_files, read_settings_file, unknown_name, user_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in `tmp_path/project/inner`, with the user's own folder in `tmp_path/own`."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    inner = tmp_path / "project" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_settings_files_are_the_users_and_the_nearest_one(home: Path) -> None:
    """The user's own is overridden by the one of the project, of which the nearest folder's counts."""
    assert find_files(None) == []
    own = write(user_folder() / "batchrt.toml", 'model = "own"')
    assert own.is_relative_to(home / "own")
    far = write(home / "batchrt.toml", 'model = "far"')
    assert [file.path for file in find_files(None)] == [own, far]
    near = write(home / "project" / "pyproject.toml", '[tool.batchrt]\nmodel = "near"')
    assert [(file.path, file.is_found) for file in find_files(None)] == [(own, False), (near, True)]
    assert find_files(None)[1].data == {"model": "near"}
    nearest = write(home / "project" / "batchrt.toml", "")
    assert [file.path for file in find_files(None)] == [own, nearest]


def test_settings_files_that_are_named_are_the_only_ones(home: Path) -> None:
    """Whatever their name; they are not found but named."""
    write(user_folder() / "batchrt.toml", "")
    write(home / "project" / "batchrt.toml", "")
    other = write(home / "x.toml", "patience = 1")
    [file] = find_files(str(other))
    assert (file.path, file.is_found, file.data) == (other, False, {"patience": 1})


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "text", ["[tool.other]\nx = 1", "this is not TOML", "[tool]\nx = 'batchrt'", "tool = 1"]
)
def test_settings_files_of_other_projects_are_passed_over(text: str) -> None:
    """A `pyproject.toml` without the table may have anything in it."""
    write(Path.cwd() / "pyproject.toml", text)
    assert find_files(None) == []


def test_settings_file_that_others_can_write_is_ignored(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a folder such as /tmp, another user could send the key anywhere; named, it is used."""
    path = write(home / "batchrt.toml", "")
    path.chmod(0o666)
    assert find_files(None) == []
    assert f"{path} is ignored, since another user can change it" in capfd.readouterr().err
    assert len(find_files(str(path))) == 1


def unreadable(path: Path) -> None:
    path.mkdir()


def no_text(path: Path) -> None:
    path.write_bytes(b"model = '\xff'")


def no_toml(path: Path) -> None:
    path.write_text("model = 'a'\nmodel = \nx = 1")


def huge(path: Path) -> None:
    path.write_text("x = [" + "'é', " * (1 << 20))


def deep(path: Path) -> None:
    path.write_text("options.x = " + "[" * 5000 + "]" * 5000)


def twice(path: Path) -> None:
    path.write_text("model = 'a'\nmodel = 'b'\nx = 1")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (unreadable, ": is no file"),
        (os.mkfifo, ": is no file"),
        (no_text, ": is not UTF-8; save it as UTF-8"),
        (no_toml, r": is not TOML: .*line 2"),
        (twice, r": is not TOML: .*line 2"),
        (huge, ": is larger than 1 MiB"),
        (deep, ": is (nested too deeply|not TOML)"),
        (lambda _: None, ": cannot be read: no such file"),
    ],
)
def test_settings_file_that_cannot_be_read(
    tmp_path: Path, make: Callable[[Path], None], problem: str
) -> None:
    """The error has its path and the reason."""
    path = tmp_path / "batchrt.toml"
    make(path)
    with pytest.raises(UsageError, match=f"^{path}{problem}"):
        read_settings_file(path)


def test_settings_file_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As editors on Windows write it."""
    path = tmp_path / "batchrt.toml"
    path.write_bytes(b"\xef\xbb\xbfmodel = 'a'")
    assert read_settings_file(path).data == {"model": "a"}


def test_settings_file_table_is_a_table(tmp_path: Path) -> None:
    """The error says so."""
    path = write(tmp_path / "pyproject.toml", "[tool]\nbatchrt = 1")
    with pytest.raises(UsageError, match=r"tool\.batchrt must be a table"):
        read_settings_file(path)


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("a = 1\nb = 2\n", "b", 2),
        ("[x]\nb = 2\n", "x.b", 2),
        ("\n\n[profiles.b]\n", "profiles.b", 3),
        ("x.b = 1\n", "x.b", 1),
        ("b = 1\n[x]\nb = 2\n", "x.b", None),
        ("# b = 1\n'b' = 2", "b", 2),
    ],
)
def test_settings_file_errors_have_a_line_if_it_is_certain(
    tmp_path: Path, text: str, key: str, line: int | None
) -> None:
    """A key that is there twice has none."""
    path = write(tmp_path / "batchrt.toml", text)
    where = str(path) if line is None else f"{path}:{line}"
    assert str(read_settings_file(path).error(key, "is bad")) == f"{where}: {key} is bad"


def test_unknown_names_are_told_with_the_nearest_one() -> None:
    """And all known ones."""
    assert unknown_name("modle", ["model", "base_url"]) == "did you mean model? The names are base_url, model"
    assert unknown_name("zzz", ["a"]) == "The names are a"
    assert unknown_name("zzz", []) == "The names are none"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root reads everything")
def test_settings_file_without_permission_says_so(tmp_path: Path) -> None:
    """With the system's reason."""
    path = write(tmp_path / "batchrt.toml", "")
    path.chmod(0)
    with pytest.raises(UsageError, match="cannot be read: permission denied"):
        read_settings_file(path)
