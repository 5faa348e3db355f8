"""Replays recorded sessions of ws-wrapper (JavaScript) on wsrpc peers.

A recording is a JSON array of scenarios: ``name``, ``tags`` and ``steps``. A step is a stimulus (``do`` an operation,
``feed`` a frame, ``feed_burst``, ``feed_binary``) or a reaction (a frame ``sent``, an ``outcome``), and all reactions
to a stimulus stand before the next one: nothing else was sent, nothing else happened. Values that JSON has not are
objects with one key, like ``{"$undefined": true}``.

``deviations.json`` says where wsrpc answers otherwise on purpose. By scenario it has the ``rows`` of
interop/DEVIATIONS.md that explain it, and by number of a stimulus the steps that follow instead of the recorded
reactions: reactions, in which ``{"$text": part}`` is any text that has the part, and frames to ``feed``, where the
other side has something to answer only here. ``no channel`` names requests that JavaScript answers null as if it were
a channel.

`scenario` reads both, `mirror` is the peer under test, `replay` drives it and compares.
"""
