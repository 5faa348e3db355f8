"""Replays recorded sessions of ws-wrapper (JavaScript) on wsrpc peers.

A recording is a JSON array of scenarios: ``name``, ``tags``, ``counterpart`` (the other half, where both ends were
recorded) and ``steps``. A step is a stimulus (``do`` an operation, ``feed`` a frame, ``feed_burst``, ``feed_binary``)
or a reaction (a frame ``sent``, an ``outcome``), and all reactions to a stimulus stand before the next one: nothing
else was sent, nothing else happened. Values that JSON has not are objects with one key, like ``{"$undefined": true}``.

`scenario` reads recordings, and puts in what ``deviations.json`` says where wsrpc answers otherwise on purpose.
`mirror` is the peer under test, and `replay` drives it and compares.
"""
