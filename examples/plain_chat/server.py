"""A chat server in its shortest form. Run `python server.py`, and client.py in other terminals."""

from wsrpc import Peer, Server

server = Server()
everybody = server.room("everybody")


@server.on("join")
async def join(name: str, peer: Peer) -> int:
    peer.state["name"] = name
    everybody.add(peer)
    await everybody.emit("said", f"{name} is here", skip=peer)
    return len(everybody)


@server.on("say")
async def say(text: str, peer: Peer) -> None:
    await everybody.emit("said", f"{peer.state.get('name', 'somebody')}: {text}", skip=peer)


server.run()
