"""A chat with Flask-SocketIO, for users who are logged in to Flask: `python flask_socketio_before.py [PORT]`.

It needs flask-socketio. flask_socketio_after.py and flask_socketio_after_server.py are the same with wsrpc.
"""

from __future__ import annotations

import sys

from flask import Flask, request, session
from flask_socketio import ConnectionRefusedError, SocketIO, emit, join_room

app = Flask(__name__)
app.secret_key = "change me"
socketio = SocketIO(app, async_mode="threading")


@app.post("/login/<name>")
def login(name: str) -> str:
    session["name"] = name  # in practice, after a look at the password
    return "welcome"


@app.post("/announce")
def announce() -> str:
    socketio.emit("said", ("Flask", request.form["text"]), to="lobby")
    return "announced"


@app.post("/ask/<name>")
def ask(name: str) -> str:
    return str(socketio.call("question", request.form["text"], to=f"user {name}", timeout=10))


@socketio.on("connect")
def connect(auth: object) -> None:
    if "name" not in session:
        raise ConnectionRefusedError("log in first")
    join_room(f"user {session['name']}")


@socketio.on("join")
def join() -> None:
    join_room("lobby")


@socketio.on("say")
def say(text: str) -> int:
    emit("said", (session["name"], text), to="lobby", include_self=False)
    return len(text)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    socketio.run(app, port=port, allow_unsafe_werkzeug=True)
