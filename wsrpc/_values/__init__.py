"""Conversion of values to types and back.

A type goes in: what its annotation says, and which library can enforce that, is found out once. A compiled function
comes out, which converts a decoded value to the type.
"""
