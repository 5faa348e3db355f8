"""The Flask application of flask_socketio_before.py with wsrpc: `flask --app flask_socketio_after run`.

The WebSocket server runs beside it: `python flask_socketio_after_server.py`, in another terminal.
"""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, Response, request, send_from_directory, session

import wsrpc
from wsrpc.blocking import Client

app = Flask(__name__)
app.secret_key = "change me"
TOKEN = "change me, too"  # by which the server knows this application
live = Client(os.environ.get("LIVE_URL", "ws://127.0.0.1:8080/"), auth=TOKEN)


@app.get("/wsrpc/<path:name>")
def script(name: str) -> Response:
    """The client for pages: `import { Client } from "/wsrpc/client.js"`."""
    return send_from_directory(Path(wsrpc.__file__).with_name("browser"), name)


@app.post("/login/<name>")
def login(name: str) -> str:
    session["name"] = name  # in practice, after a look at the password
    return "welcome"


@app.post("/announce")
def announce() -> str:
    connected().request("announce", "Flask", request.form["text"])
    return "announced"


@app.post("/ask/<name>")
def ask(name: str) -> str:
    return connected().request("ask", name, request.form["text"], returns=str)


def connected() -> Client:
    """Connect in the first request of each process, also after a fork; a Celery task does the same."""
    if not live.connected:
        live.connect()
    return live
