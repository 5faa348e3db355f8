"""Conversion of values to types and back.

The input is a type, and the output is a compiled function that converts decoded values to the type. Once for each type,
this package decides which library can enforce all that the annotation says.
"""
