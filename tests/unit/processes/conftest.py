from __future__ import annotations

from in_a_thread import served as served
from in_a_thread import threads_end as threads_end
