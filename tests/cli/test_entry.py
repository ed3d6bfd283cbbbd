"""The entry point of the program."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["typer", "batchrt.cli.options", "httpx"])
def test_entry_ctrl_c_during_imports_leaves_no_traceback(module: str) -> None:
    """The exit code is that of an interrupted program, wherever in its imports it is."""
    program = f"""
import signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)
import batchrt
sys.meta_path.insert(0, Interrupt())
from batchrt.cli.entry import main
sys.argv = ["batchrt", "run", "none.csv", "-p", "x", "-m", "mock"]
main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "")


def test_entry_leaves_nothing_to_collect_at_the_exit() -> None:
    """The last collections of the interpreter would take longer than the rest of its end."""
    program = """
import atexit, gc, sys
from batchrt.cli.entry import main
atexit.register(lambda: print(gc.get_freeze_count() > gc.get_count()[2] + len(gc.get_objects())))
sys.argv = ["batchrt", "--version"]
main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "True")
