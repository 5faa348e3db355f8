"""The layers of the package, which tests/test_structure.py checks."""

LAYERS = [
    ["errors", "headers", "limits", "stats"],
    ["_base"],
    ["handshake", "transport"],
    ["_values", "quotas"],
    ["_core.wire"],
    ["_core.session", "_core.inboxes"],
    ["_core.handlers"],
    ["_schema", "_core.sending"],
    ["_core.channels"],
    ["_core.peer"],
    ["_core.api"],
    ["_net", "_raw"],
    ["_http"],
    ["_log"],
    ["_keyed"],
    ["_client", "_server"],
    ["store"],
    ["cluster"],
    ["_local"],
    ["_http_server"],
    ["adapting", "blocking", "codegen", "conformance", "schema", "testing", "uploads"],
    ["__init__", "codecs", "types"],
    ["_command"],
    ["__main__"],
]
"""Lowest first. A package imports from itself and from lower layers; the modules of a layer from each other, too."""
