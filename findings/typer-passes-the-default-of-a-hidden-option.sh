#!/usr/bin/env bash
# typer 0.29.2, an option with `expose_value=False`, as one has for `--config` with a callback.
#
# A good guess: as in click, where the option comes from, the function gets no such argument; its callback has the value.
# What it does: the callback gets the value, and the function gets the parameter's default, whatever was given. So a
# function with the parameter works and sees None for ever, and one that takes **options has an argument too many.
#
# Seen: "callback: x", "function: None".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q typer==0.29.2
"$home/venv/bin/python" - <<'END'
from typing import Annotated, Optional
import typer

seen = {}

def note(value: Optional[str]) -> Optional[str]:
    seen["callback"] = value
    return value

app = typer.Typer()

@app.command()
def main(config: Annotated[Optional[str], typer.Option(callback=note, expose_value=False)] = None) -> None:
    seen["function"] = config

app(["--config", "x"], standalone_mode=False)
print(", ".join(f"{name}: {value}" for name, value in seen.items()))
assert seen == {"callback": "x", "function": None}, "the value is passed, or left out, now"
END
