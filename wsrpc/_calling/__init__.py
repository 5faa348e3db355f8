"""Calling: the methods that users call, and typed proxies that are made of contracts.

Arguments and options come in and are checked here. Events and requests go out to a `Sender`.
"""
