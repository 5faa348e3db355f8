"""A chat in its shortest form: `python server.py`, then `python client.py Ada` and `python client.py Bob` elsewhere."""

from wsrpc import Peer, Server

server = Server()
everybody = server.room("everybody")


@server.on("join")
async def join(name: str, peer: Peer) -> int:
    peer.set("name", name)
    everybody.add(peer)
    await everybody.emit("said", f"{name} is here", skip=peer)
    return len(everybody)


@server.on("say")
async def say(text: str, peer: Peer) -> None:
    await everybody.emit("said", f"{peer.get('name', 'somebody')}: {text}", skip=peer)


server.run()
