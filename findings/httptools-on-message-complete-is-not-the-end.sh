#!/usr/bin/env bash
# httptools 0.9.0, the parser of uvicorn, with responses.
#
# A good guess: `on_message_complete` comes once, when the answer to a request is complete; `on_header` comes before
# the body, once for each header, as `on_status` does for the reason.
# What it does: it comes for each interim 1xx response too, with callbacks for a whole message, and never for a body
# that ends with the connection: there is no way to report the end of file, `feed_data(b"")` is a body part of no
# bytes. Trailers arrive by `on_header` after the body. Headers are put together across reads, the reason is not.
#
# Seen: "103 and 200: complete at [103, 200]; until the end of file: body [b'ok', b''], complete at []; chunked:
# [header, body, header x-late, complete]; reason in two reads: [b'Too Many', b' Requests']".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q httptools==0.9.0
"$home/venv/bin/python" - <<'END'
import httptools

class Callbacks:
    def __init__(self):
        self.events, self.complete, self.body, self.reasons = [], [], [], []

    def on_status(self, reason):
        self.reasons.append(reason)

    def on_header(self, name, value):
        self.events.append(f"header {name.decode()}")

    def on_body(self, part):
        self.body.append(part)
        self.events.append("body")

    def on_message_complete(self):
        self.complete.append(self.parser.get_status_code())
        self.events.append("complete")

def parse(*reads):
    callbacks = Callbacks()
    callbacks.parser = httptools.HttpResponseParser(callbacks)
    for read in reads:
        callbacks.parser.feed_data(read)
    return callbacks

answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
interim = parse(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + answer).complete
endless = parse(b"HTTP/1.1 200 OK\r\n\r\n", b"ok", b"")
late = parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-late: 1\r\n\r\n").events
name = parse(b"HTTP/1.1 429 Too Many", b" Requests\r\nx-a", b"b: c\r\ncontent-length: 0\r\n\r\n")
print(f"103 and 200: complete at {interim}", end="; ")
print(f"until the end of file: body {endless.body}, complete at {endless.complete}", end="; ")
print(f"chunked: {late}; reason in two reads: {name.reasons}")
assert interim == [103, 200]
assert endless.body == [b"ok", b""] and endless.complete == []
assert late == ["header transfer-encoding", "body", "header x-late", "complete"]
assert name.reasons == [b"Too Many", b" Requests"] and "header x-ab" in name.events
END
