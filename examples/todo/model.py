"""The types that server and clients share."""

from typing import Annotated

import msgspec

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class Task(msgspec.Struct):
    id: int
    text: Text
    done: bool = False
