"""The objects that users hold: peers, channels, streams, contexts, proxies and emitters.

Arguments and options come in and are checked here. Events and requests go out to a `Sender`. The classes that handlers
can have as parameters are injected by their annotation.
"""
