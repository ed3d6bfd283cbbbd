"""`batchrt embed` with a journal: the same command goes on, and no vector is paid for twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import httpx
import numpy as np
import pytest

from batchrt.cli.job import Job
from batchrt.jobs.commit_thread import GROUP_ROWS
from batchrt.jobs.journal_reader import JournalReader
from batchrt.testing import MockProvider
from tests.cli.conftest import Command, Result
from tests.cli.embedder import ask_first, put_in_place, written

ROWS = 40
WIDTH = 4
LIST = 8


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"n": {number}, "text": "t{number}"}}\n' for number in range(ROWS)))
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Have `batchrt embed` ask a provider, and return the lists that it is asked."""
    lists: list[list[str]] = []

    async def note(texts: list[str]) -> None:
        lists.append(texts)

    ask_first(monkeypatch, MockProvider(dimensions=WIDTH), note, max_batch_size=LIST)
    return lists


def embed(command: Command, rows: Path, out: Path, *more: object) -> Result:
    return command("embed", rows, "--text", "{text}", "--id", "n", "-o", out, "-c", 2, *more)


def texts(*kinds: range) -> list[str]:
    return [f"t{number}" for kind in kinds for number in kind]


def flat(lists: list[list[str]]) -> list[str]:
    """Return the texts of all lists, sorted by their numbers, and forget them."""
    found = sorted((text for each in lists for text in each), key=lambda text: int(text[1:]))
    lists.clear()
    return found


@pytest.mark.parametrize("name", ["v.npy", "v.jsonl", "v.jsonl.gz", "v.parquet"])
def test_embed_journal_reuses_all_vectors(
    command: Command, asked: list[list[str]], rows: Path, tmp_path: Path, name: str
) -> None:
    """The second run sends nothing; the output is that of a run without a journal, with any id."""
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    out, other = tmp_path / name, tmp_path / f"other-{name}"
    assert embed(command, rows, out).code == 0
    assert [len(each) for each in asked] == [LIST] * (ROWS // LIST)
    asked.clear()
    first = out.read_bytes()
    again = embed(command, rows, out)
    assert (again.code, asked) == (0, [])
    assert f"{ROWS} reused, 0 failed before, 0 changed, 0 new, 0 gone" in again.err
    assert out.read_bytes() == first
    assert embed(command, rows, other, "--no-journal").code == 0
    assert not Path(f"{other}.journal").exists()
    if not name.endswith("gz"):  # whose header has the file's time
        assert other.read_bytes() == first
    asked.clear()
    with_numbers = command("embed", rows, "--text", "{text}", "-o", out)
    assert (with_numbers.code, asked) == (0, [])
    named = out.with_suffix(".ids.jsonl") if name == "v.npy" else out
    other = other.with_suffix(".ids.jsonl") if name == "v.npy" else other
    assert named.read_bytes() != other.read_bytes()


def test_embed_journal_sends_what_changed(
    command: Command, asked: list[list[str]], rows: Path, tmp_path: Path
) -> None:
    """A text that is new, another template, and what is not part of the text."""
    out = tmp_path / "v.jsonl"
    assert embed(command, rows, out).code == 0
    asked.clear()
    kept = [f'{{"n": {number * 10}, "text": "t{number}"}}\n' for number in (5, 2)]
    rows.write_text("".join((*kept, '{"n": 1, "text": "t99"}\n')))
    result = embed(command, rows, out)
    assert result.code == 0
    assert flat(asked) == ["t99"]
    assert f"2 reused, 0 failed before, 0 changed, 1 new, {ROWS - 2} gone" in result.err
    assert [row["id"] for row in written(out.read_text())] == [50, 20, 1]
    changed = command("embed", rows, "--text", "t{n}", "--id", "n", "-o", out)
    assert changed.code == 0
    assert flat(asked) == ["t50"]  # there were vectors of t1 and t20


def test_embed_journal_named_by_a_column_has_the_same_vectors(
    command: Command, asked: list[list[str]], rows: Path, tmp_path: Path
) -> None:
    """`--column text` sends the same text as `--text '{text}'`, and nothing else tells the two apart."""
    out = tmp_path / "v.jsonl"
    assert embed(command, rows, out).code == 0
    asked.clear()
    assert command("embed", rows, "--column", "text", "--id", "n", "-o", out).code == 0
    assert asked == []


def test_embed_journal_keeps_a_matrix_with_rows_without_text(
    command: Command, asked: list[list[str]], tmp_path: Path
) -> None:
    """They are rows of NaN with their errors, as without a journal."""
    path, out, other = tmp_path / "in.csv", tmp_path / "v.npy", tmp_path / "other.npy"
    path.write_text('text\na\n""\nb\n')
    for target, more in ((out, []), (other, ["--no-journal"]), (out, [])):
        assert command("embed", path, "--column", "text", "-o", target, *more).code == 1
    assert out.read_bytes() == other.read_bytes()
    assert np.isnan(np.load(out)[1]).all()
    ids = written(out.with_suffix(".ids.jsonl").read_text())
    assert [row["id"] for row in ids] == [1, 2, 3]
    assert "there is no text" in ids[1]["error"]
    assert ids == written(other.with_suffix(".ids.jsonl").read_text())


def test_embed_journal_numbers_the_rows_of_a_sample(
    command: Command, asked: list[list[str]], rows: Path, tmp_path: Path
) -> None:
    """An id is the row's number in the file, and not in the sample."""
    out = tmp_path / "v.jsonl"
    given = ["embed", rows, "--column", "text", "-o", out]
    assert command(*given, "--sample", 5).code == 0
    drawn = written(out.read_text())
    assert [f"t{row['id'] - 1}" for row in drawn] == flat(asked)
    assert command(*given).code == 0
    assert len(flat(asked)) == ROWS - 5


@pytest.mark.parametrize("stop_at", [3, 20])
def test_embed_journal_goes_on_after_ctrl_c(
    command: Command, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """The partial output has the vectors so far; only rows of lists that were not sent are sent then."""
    lists: list[list[str]] = []
    stopped_at, stop = anyio.Event(), Job._stop
    signals = iter([signal.SIGINT])

    def stop_and_tell(job: Job, number: int) -> None:
        stop(job, number)
        stopped_at.set()

    async def note(given: list[str]) -> None:
        lists.append(given)
        if f"t{stop_at}" in given and (number := next(signals, None)):
            signal.raise_signal(number)
        if int(given[0][1:]) >= stop_at // LIST * LIST:
            await stopped_at.wait()

    monkeypatch.setattr(Job, "_stop", stop_and_tell)
    ask_first(monkeypatch, MockProvider(dimensions=WIDTH), note, max_batch_size=LIST)
    out = tmp_path / "v.npy"
    stopped = embed(command, rows, out)
    assert stopped.code == 130
    done = flat(lists)
    assert 0 < len(done) < ROWS
    assert len(np.load(out)) == len(done)
    ids = written(out.with_suffix(".ids.jsonl").read_text())
    assert [f"t{row['id']}" for row in ids] == done
    told = f"the journal {out}.journal has the outcomes of {len(done)} rows; run the same command to continue"
    assert told in stopped.err
    assert embed(command, rows, out).code == 0
    assert flat(lists) == [text for text in texts(range(ROWS)) if text not in done]
    assert len(np.load(out)) == ROWS


def test_embed_journal_wrong_key_leaves_no_failed_rows(
    command: Command, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run sends them."""

    async def refuse(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(401, json={"error": {"message": "bad key"}})

    out = tmp_path / "v.npy"
    with monkeypatch.context() as patch:
        put_in_place(patch, MockProvider(), transport=httpx.MockTransport(refuse), max_batch_size=LIST)
        assert embed(command, rows, out).code == 2
    assert not out.exists()
    put_in_place(monkeypatch, MockProvider(dimensions=WIDTH))
    result = embed(command, rows, out)
    assert result.code == 0
    assert f"{ROWS} done, 0 failed" in result.err


def test_embed_journal_of_answers_is_refused(
    command: Command, asked: list[list[str]], rows: Path, tmp_path: Path
) -> None:
    """And so is one of vectors by `batchrt run`."""
    answers, vectors = tmp_path / "a.jsonl", tmp_path / "v.jsonl"
    run = ["run", rows, "-p", "{n}", "-m", "mock", "-o"]
    assert command(*run, answers).code == 0
    assert embed(command, rows, vectors).code == 0
    before = answers.read_bytes(), vectors.read_bytes()
    refused = embed(command, rows, answers)
    assert refused.code == 2
    assert f"the journal {answers}.journal holds answers of batchrt run; name another" in refused.complaint
    refused = command(*run, vectors)
    assert refused.code == 2
    assert f"the journal {vectors}.journal holds vectors of batchrt embed; name" in refused.complaint
    assert (answers.read_bytes(), vectors.read_bytes()) == before


def test_embed_journal_needs_its_ids_file_for_itself(
    command: Command, asked: list[list[str]], rows: Path, tmp_path: Path
) -> None:
    """A file of that name that another program has made is not replaced."""
    out, beside = tmp_path / "v.npy", tmp_path / "v.ids.jsonl"
    beside.write_text("of others\n")
    refused = embed(command, rows, out)
    assert refused.code == 2
    assert f"{beside}: the file exists already" in refused.complaint
    assert beside.read_text() == "of others\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "v.ids.jsonl"]


def recorded(journal: Path) -> set[str]:
    """Return the texts whose vectors are on the disk."""
    if not journal.exists():
        return set()
    try:
        with JournalReader(journal) as reader:
            return {str(json.loads(given)["text"]) for _, given, _ in reader.records()}
    except OSError:
        return set()


@pytest.mark.parametrize("name", ["v.npy", "v.jsonl", "v.parquet"])
def test_embed_journal_survives_kills(tmp_path: Path, name: str) -> None:
    """The output is that of an undisturbed run; at most lists in flight and one group are sent again."""
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    count, cap, size, kills = 1200, 3, 20, 3
    path, out = tmp_path / "in.csv", tmp_path / name
    path.write_text("text\n" + "".join(f"t{number}\n" for number in range(count)))
    asked: list[str] = []

    def note(text: str) -> bool:
        asked.append(text)
        return False

    with MockProvider(dimensions=WIDTH, latency=0.03, reject=note).serve() as server:
        program = [sys.executable, "-m", "batchrt", "embed", str(path), "--column", "text", "-m", "m"]
        program += ["--base-url", server.base_url, "-c", str(cap), "--max-batch-size", str(size)]
        chance = random.Random(name)
        journal = Path(f"{out}.journal")
        for kill in range(kills):
            before = len(asked)
            moment = before + chance.randrange(1, count // kills)
            with subprocess.Popen([*program, "-o", str(out)], stderr=subprocess.PIPE) as process:
                while len(asked) < moment and process.poll() is None:
                    time.sleep(0.001)
                known = recorded(journal)
                process.kill()
            assert process.returncode == -signal.SIGKILL, kill
            assert known <= recorded(journal)
            assert not out.exists()
        known, before = recorded(journal), len(asked)
        last = subprocess.run([*program, "-o", str(out)], capture_output=True, text=True, check=False)
        assert last.returncode == 0, last.stderr
        assert not known & set(asked[before:])
        assert len(asked) - count <= kills * (cap * size + GROUP_ROWS)
        other = tmp_path / f"other-{name}"
        undisturbed = [*program, "-o", str(other), "--no-journal"]
        subprocess.run(undisturbed, capture_output=True, check=True)
    assert out.read_bytes() == other.read_bytes()
