"""Streams beside what one does without them: a bare ``websockets`` connection that sends in a loop."""
