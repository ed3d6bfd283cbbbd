#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12): limit_conn 1 and limit_req with a burst of 4 in one location.
#
# A good guess: what limit_conn refuses is not done, so it costs nothing of the rate; or the first directive in the
# file decides first.
# What it does: limit_req is asked first, whatever stands first, and what it lets through and limit_conn refuses is
# spent. While one slow request holds the only place, four refused ones use the burst up, and when the place is
# free again the next is refused for the rate. A client that knocks at a full server pays with its rate for it.
# The two refusals look alike: the same bare 429; only the error log tells which it was.
#
# Seen: "beside a slow one: [429, 429, 429, 429] once it has ended: 429 by limit_req ; without: 200".
set -euo pipefail
home=$(mktemp -d); chmod 755 "$home"; trap 'kill "$(cat "$home/pid" 2>/dev/null)" 2>/dev/null || true; sleep 1; rm -rf "$home"' EXIT
if ! nginx=$(command -v nginx || ls /usr/sbin/nginx 2>/dev/null); then
    (cd "$home" && apt-get download -q nginx=1.22.1-9+deb12u11 && dpkg -x nginx_*.deb .)
    nginx=$home/usr/sbin/nginx
fi
"$nginx" -v 2>&1 | grep -q 'nginx/1\.22\.1$' || { "$nginx" -v; exit 1; }
port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
front=$(port) back=$(port)
cat > "$home/conf" <<END
pid $home/pid; error_log $home/error.log error; daemon on; worker_processes 1;
events { }
http {
    access_log off;
    client_body_temp_path $home/a; proxy_temp_path $home/b; fastcgi_temp_path $home/c;
    uwsgi_temp_path $home/d; scgi_temp_path $home/e;
    limit_conn_zone \$arg_key zone=open:1m;
    limit_req_zone \$arg_key zone=rate:1m rate=6r/m;
    server {
        listen 127.0.0.1:$front;
        location / {
            limit_conn open 1; limit_conn_status 429;
            limit_req zone=rate burst=4 nodelay; limit_req_status 429;
            proxy_pass http://127.0.0.1:$back;
        }
    }
}
END
"$nginx" -p "$home" -c "$home/conf" 2>/dev/null
python3 - "$front" "$back" "$home/error.log" <<'END'
import http.client
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

front, back, log = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
let_go = threading.Event()

class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        if "slow" in self.path:
            let_go.wait(20)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

threading.Thread(target=ThreadingHTTPServer(("127.0.0.1", back), Server).serve_forever, daemon=True).start()

def ask(path):
    connection = http.client.HTTPConnection("127.0.0.1", front)
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    return response.status

def run(key, knocks):
    let_go.clear()
    slow = threading.Thread(target=ask, args=(f"/slow?key={key}",))
    slow.start()
    time.sleep(0.5)
    refused = [ask(f"/?key={key}") for _ in range(knocks)]
    let_go.set()
    slow.join()
    time.sleep(0.2)
    return refused, ask(f"/?key={key}")

knocked, quiet = run("a", 4), run("b", 0)
with open(log) as lines:
    words = ["limit_req" if "limiting requests" in line else "limit_conn" for line in lines if "limiting" in line]
print("beside a slow one:", knocked[0], "once it has ended:", knocked[1], "by", words[-1], "; without:", quiet[1])
print("by:", words)
assert knocked == ([429] * 4, 429) and quiet == ([], 200)
assert words == ["limit_conn"] * 4 + ["limit_req"]
END
