from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import numpy as np
import pytest

from batchrt.cli.embed import id_reader
from batchrt.files import Row
from batchrt.testing import Fault, FaultPlan, MockProvider
from tests.cli.conftest import Command
from tests.cli.embedder import ROWS, VECTORS, ask_first, new_table, put_in_place, single, written

MANY = 10_000


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Hold `ROWS`."""
    return new_table(tmp_path)


def test_embed_matrix_has_the_rows_in_order(command: Command, table: Path, tmp_path: Path) -> None:
    """The embedded model needs neither a key nor a server; the ids are in a file beside it."""
    out = tmp_path / "v.npy"
    result = command("embed", table, "--column", "text", "--id", "key", "--model", "mock", "-o", out)
    assert result.code == 0
    assert np.array_equal(np.load(out), VECTORS)
    beside = tmp_path / "v.ids.jsonl"
    assert written(beside.read_text()) == [
        {"row": number, "id": row["key"], "error": None} for number, row in enumerate(ROWS)
    ]
    assert result.out == ""
    first, *others = result.err.splitlines()
    assert first.startswith("20 rows in ")
    assert first.endswith(": 20 done, 0 failed")
    assert others[:-1] == [
        "tokens: 40",
        "1 list sent, of 20 texts on average",
        f"output: 20 rows of 1,536 numbers in {out} and {beside}",
    ]
    assert others[-1].startswith(f"journal: {out}.journal (")


def test_embed_table_has_ids_vectors_and_errors(command: Command, table: Path, tmp_path: Path) -> None:
    """Without --id the row's number is the id, and is a number."""
    pq = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "v.parquet"
    assert command("embed", table, "--column", "text", "--model", "mock", "-o", out).code == 0
    columns = pq.read_table(out).to_pydict()
    assert columns["id"] == [*range(1, 21)]
    assert np.array_equal(np.array(columns["embedding"], dtype=np.float32), VECTORS)
    assert columns["error"] == [None] * 20


def test_embed_lines_go_to_stdout_by_default(command: Command, table: Path) -> None:
    """And --quiet leaves nothing else to be seen."""
    result = command("embed", table, "--column", "text", "--id", "key", "--model", "mock", "--quiet")
    assert (result.code, result.err) == (0, "")
    rows = written(result.out)
    assert [row["id"] for row in rows] == [row["key"] for row in ROWS]
    assert np.array_equal(np.array([row["embedding"] for row in rows], dtype=np.float32), VECTORS)
    assert all(row["error"] is None for row in rows)


def test_embed_stdin_is_read_as_its_format_says(command: Command, table: Path, tmp_path: Path) -> None:
    """From a pipe."""
    out = tmp_path / "v.npy"
    arguments = ["--format", "csv", "--column", "text", "--model", "mock", "-o", out]
    assert command("embed", "-", *arguments, stdin=table.read_bytes()).code == 0
    assert np.array_equal(np.load(out), VECTORS)


@pytest.mark.parametrize(
    ("options", "server", "requests"),
    [([], "openai", 5), (["--server", "tei"], "tei", 313), (["--max-batch-size", 500], "openai", 20)],
)
def test_embed_texts_are_sent_in_lists_as_long_as_the_server_takes(
    command: Command, tmp_path: Path, options: list[Any], server: Any, requests: int
) -> None:
    """The server's own log says so; no more are in flight than allowed."""
    path, out = tmp_path / "in.csv", tmp_path / "v.npy"
    path.write_text("text\n" + "".join(f"text {number}\n" for number in range(MANY)))
    with MockProvider(server=server, dimensions=8).serve() as serving:
        arguments = ["--base-url", serving.base_url, "-o", out, "-c", 3, *options]
        result = command("embed", path, "--column", "text", *arguments)
        log = serving.provider.log.snapshot()
    assert result.code == 0
    assert np.load(out).shape == (MANY, 8)
    assert (log.requests, log.items) == (requests, MANY)
    assert log.peak_in_flight <= 3
    assert f"{requests} lists sent" in result.err


def test_embed_equal_texts_of_a_list_are_sent_once(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each of their rows has the vector."""
    provider = MockProvider(dimensions=4)
    put_in_place(monkeypatch, provider)
    path, out = tmp_path / "in.csv", tmp_path / "v.npy"
    path.write_text("text\n" + "a\nb\n" * 50)
    assert command("embed", path, "--column", "text", "-o", out).code == 0
    pair = [provider.vector_of("a"), provider.vector_of("b")]
    assert np.load(out).tolist() == pair * 50
    assert provider.log.snapshot().items == 2


def test_embed_bad_rows_cost_nothing_and_stay_in_their_places(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says which file, which row, which column and what to do; the exit code is 1."""
    provider = MockProvider(dimensions=4)
    put_in_place(monkeypatch, provider)
    path = tmp_path / "in.jsonl"
    lines = ['{"n": 1, "t": "x"}', '{"n": 2}', "nonsense", '{"n": 4, "t": null}', '{"n": 5, "t": ""}']
    path.write_text("\n".join([*lines, '{"t": "y"}']) + "\n")
    result = command("embed", path, "--column", "t", "--id", "n")
    assert result.code == 1
    rows, where = written(result.out), f"InputError: {path}, row"
    assert [row["id"] for row in rows] == [1, 2, None, 4, 5, None]
    found = [single(row["embedding"]) for row in rows if row["error"] is None]
    assert found == [provider.vector_of("x"), provider.vector_of("y")]
    assert [row["error"] for row in rows] == [
        None,
        f"{where} 2 (line 2), column 't': the row does not have it (it has: n)",
        f"{where} 3 (line 3): not valid JSON at character 1: expecting value",
        f"{where} 4 (line 4), column 't': there is no text (null); leave the row out",
        f"{where} 5 (line 5), column 't': there is no text (an empty string); leave the row out",
        None,
    ]
    assert provider.log.snapshot().items == 2
    assert f"4 InputError, as in row 2: {path}, row 2" in result.err


def test_embed_values_that_are_no_strings_are_embedded_as_in_the_file(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON and not Python."""
    provider = MockProvider(dimensions=4)
    put_in_place(monkeypatch, provider)
    path = tmp_path / "in.jsonl"
    path.write_text('{"t": 7}\n{"t": true}\n{"t": ["é"]}\n')
    rows = written(command("embed", path, "--column", "t").out)
    found = [single(row["embedding"]) for row in rows]
    assert found == [provider.vector_of(text) for text in ("7", "true", '["é"]')]


def test_embed_text_the_server_will_not_have_fails_alone(
    command: Command, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is a row of NaN in a matrix."""
    provider = MockProvider(reject=lambda text: text == "text 7")
    put_in_place(monkeypatch, provider)
    out = tmp_path / "v.npy"
    result = command("embed", table, "--column", "text", "-o", out)
    assert result.code == 1
    assert "19 done, 1 failed" in result.err
    matrix = np.load(out)
    assert np.isnan(matrix[7]).all()
    assert np.array_equal(np.delete(matrix, 7, 0), np.delete(VECTORS, 7, 0))
    beside = written((tmp_path / "v.ids.jsonl").read_text())
    errors = {line["row"]: line["error"] for line in beside if line["error"]}
    assert list(errors) == [7]
    assert errors[7].startswith("BadRequestError: ")


def test_embed_texts_that_are_too_long_fail_or_are_cut(command: Command, tmp_path: Path) -> None:
    """The error says with which option."""
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"t": "word " * 20_000}) + '\n{"t": "x"}\n')
    with MockProvider(dimensions=4).serve() as server:
        arguments = ["--column", "t", "--base-url", server.base_url, "--server", "openai"]
        long, short = written(command("embed", path, *arguments).out)
        assert long["error"].startswith("ContextLengthError: the text has at least ")
        assert "--truncate auto" in long["error"]
        assert short["embedding"]
        for option in ("auto", "100"):
            cut = command("embed", path, *arguments, "--truncate", option)
            assert cut.code == 0
            assert all(row["embedding"] for row in written(cut.out))


def test_embed_options_reach_the_provider(
    command: Command, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the request's body."""
    asked: list[Any] = []
    transport = MockProvider().transport()

    async def handle(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return await transport.handle_async_request(request)

    monkeypatch.setattr(MockProvider, "transport", lambda _self: httpx.MockTransport(handle))
    arguments = ["--column", "text", "--model", "mock", "--dimensions", 16, "-n", 3]
    result = command("embed", table, *arguments)
    assert result.code == 0
    assert [len(row["embedding"]) for row in written(result.out)] == [16] * 3
    assert asked == [
        {
            "model": "mock",
            "dimensions": 16,
            "encoding_format": "base64",
            "input": ["text 0", "text 1", "text 2"],
        }
    ]


def test_embed_faults_of_every_kind_leave_every_row_right_or_with_its_own_error(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is lost, none is out of order."""
    faults = FaultPlan.everything(0.3, stall_seconds=0)
    provider = MockProvider(faults=faults, dimensions=4)
    put_in_place(monkeypatch, provider, max_batch_size=4, timeout=5)
    path = tmp_path / "in.csv"
    texts = [f"text {number}" for number in range(400)]
    path.write_text("\n".join(["text", *texts]) + "\n")
    result = command("embed", path, "--column", "text")
    rows = written(result.out)
    assert [row["id"] for row in rows] == [*range(1, 401)]
    for row, text in zip(rows, texts, strict=True):
        if row["error"] is None:
            assert single(row["embedding"]) == provider.vector_of(text)
        else:
            assert row["embedding"] is None
    failed = sum(row["error"] is not None for row in rows)
    assert 0 < failed < len(rows)
    assert result.code == 1
    assert f"{len(rows) - failed} done, {failed} failed" in result.err


def test_embed_list_that_takes_too_long_fails_alone(command: Command, table: Path) -> None:
    """The timeout is the list's."""
    with MockProvider(faults=FaultPlan(script=[Fault.STALL(seconds=60)])).serve() as server:
        arguments = ["--base-url", server.base_url, "--timeout", "0.3", "-c", 1, "--max-batch-size", 5]
        rows = written(command("embed", table, "--column", "text", *arguments, "-n", 10).out)
    assert {row["error"] for row in rows[:5]} == {
        "ItemTimeoutError: the list took longer than its timeout of 0.3 s"
    }
    assert all(row["embedding"] for row in rows[5:])


def test_embed_repeated_requests_and_estimated_tokens_are_told(
    command: Command, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An estimate is called one."""
    faults = FaultPlan(script=[Fault.RATE_LIMIT_MS(seconds=0.001), Fault.MISSING_USAGE])
    put_in_place(monkeypatch, MockProvider(faults=faults, dimensions=4), max_retries=2)
    result = command("embed", table, "--column", "text")
    assert result.code == 0
    assert "\ntokens that the server did not count: about 5" in result.err
    assert "\nrepeated requests: 1; cool-downs: 1, 0 s in all" in result.err
    assert "\ntokens: " not in result.err


def test_embed_list_that_is_late_holds_up_no_more_than_the_window(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is the window and not the input, where no journal takes the vectors."""
    begun: list[int] = []
    enough, counted = anyio.Event(), 0
    cap, size = 2, 512
    window = cap + 8192 // size

    async def first(texts: list[str]) -> None:
        nonlocal counted
        begun.append(len(texts))
        if texts[0] == "text 0":
            await enough.wait()
            for _ in range(100):
                await anyio.lowlevel.checkpoint()
            counted = len(begun)
        elif len(begun) == window:
            enough.set()

    ask_first(monkeypatch, MockProvider(dimensions=4), first, max_batch_size=size)
    path, out = tmp_path / "in.csv", tmp_path / "v.npy"
    path.write_text("text\n" + "".join(f"text {number}\n" for number in range(30 * size)))
    given = ["embed", path, "--column", "text", "-o", out, "-c", cap, "--no-journal"]
    assert command(*given).code == 0
    assert counted == window
    assert begun == [size] * 30


def test_embed_of_a_row_only_its_id_is_kept() -> None:
    """Thousands of rows wait for their lists."""
    row = Row(7, 8, {"t": "a", "key": "k", "other": "x" * 1000}, size=1010)
    assert id_reader(None)(row) == Row(7, 8, {"id": 7})
    assert id_reader("key")(row) == Row(7, 8, {"id": "k"})
    assert id_reader("key")(row).size == 0
