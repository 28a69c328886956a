from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Server:
    """An HTTP server on loopback that writes down what it gets. status: what it answers. hang: it never does."""

    def __init__(self):
        self.got = []
        self.status = [200]
        self.hang = False
        self.free = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.got.append(("POST", self.path, json.loads(body)))
                self._answer()

            def do_GET(self):
                server.got.append(("GET", self.path, self.headers["User-Agent"]))
                self._answer()

            def _answer(self):
                if server.hang:
                    server.free.wait(30)
                status = server.status.pop(0) if len(server.status) > 1 else server.status[0]
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda request, address: None
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.free.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def closed_port(server):
    """A port that nobody listens on."""
    other = Server()
    other.close()
    return other.port
