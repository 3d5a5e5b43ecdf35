"""Python's http.server, which speaks HTTP/1.0: each connection ends with its response."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

host, port, path = sys.argv[1:]
lock = threading.Lock()
log = open(path, "a", buffering=1)


class Handler(BaseHTTPRequestHandler):
    uses = 0

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.uses += 1
        name = parse_qs(urlsplit(self.path).query)["id"][0]
        with lock:
            log.write(f"{self.command} {name} {self.uses}\n")
        self.send_response(200)
        self.send_header("Content-Length", str(len(name)))
        self.end_headers()
        self.wfile.write(name.encode())

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
