"""Quotas: what each user may do on all connections together, in all processes.

In: handshakes and messages. Out: those that are refused.
"""
