#!/usr/bin/env bash
# httptools 0.9.0, the parser of uvicorn, with responses.
#
# A good guess: after `feed_data` has returned, the parser knows whether the connection of the message that has just
# ended can be kept; and if `feed_data` raises, it cannot.
# What it does: `should_keep_alive()` is right inside the callbacks. Once the message is complete and `feed_data` has
# returned, the state is that of the next message, and it returns False for every complete response. It returns True
# for one that is half read, and for one that was refused as malformed. A client that asks where it puts connections
# back into its pool never reuses one.
#
# Seen: "complete: True in on_message_complete, False afterwards; half of the body: True; two different lengths:
# HttpParserError, True".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q httptools==0.9.0
"$home/venv/bin/python" - <<'END'
import httptools

class Callbacks:
    inside = None

    def on_message_complete(self):
        self.inside = self.parser.should_keep_alive()

def parse(data):
    callbacks = Callbacks()
    callbacks.parser = httptools.HttpResponseParser(callbacks)
    try:
        callbacks.parser.feed_data(data)
    except httptools.HttpParserError as error:
        return type(error).__name__, callbacks.parser.should_keep_alive()
    return callbacks.inside, callbacks.parser.should_keep_alive()

head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
complete, half = parse(head + b"ok"), parse(head + b"o")
refused = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok")
print(f"complete: {complete[0]} in on_message_complete, {complete[1]} afterwards", end="; ")
print(f"half of the body: {half[1]}; two different lengths: {refused[0]}, {refused[1]}")
assert (complete, half, refused) == ((True, False), (None, True), ("HttpParserError", True))
END
