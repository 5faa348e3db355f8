"""The same messages to a peer of Python and to one of JavaScript, and what they make of them, side by side."""
