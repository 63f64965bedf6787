"""`data.since` as text → from when on events are read: a time, or how long before the log's end."""

from __future__ import annotations

import datetime
import re
from typing import NamedTuple

from dateutil import parser as dateutil_parser

_UNITS_S = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class Since(NamedTuple):
    """One of the two is None."""

    timestamp_s: float | None  # Unix time
    before_end_s: float | None

    def resolve(self, end_s: float) -> float:
        """The time, for a log whose latest event is of `end_s`."""
        if self.before_end_s is None:
            return self.timestamp_s  # type: ignore[return-value]
        return max(end_s - self.before_end_s, 0.0)


def parse_since(text: str) -> Since:
    """`2026-11-01`, `2026-11-01T03:00:00+01:00` (without offset: UTC), or a duration: `30d`, `12h`, `90m`, `4w`.

    Raises:
        ValueError: it is neither.
    """
    duration = re.fullmatch(r"(\d+)([mhdw])", text)
    if duration:
        return Since(None, float(duration[1]) * _UNITS_S[duration[2]])
    try:
        if text[4:5] != "-":  # isoparse would take 1396437466 for a date, too
            raise ValueError
        time = dateutil_parser.isoparse(text)
        time_s = (time if time.tzinfo else time.replace(tzinfo=datetime.timezone.utc)).timestamp()
        datetime.datetime.fromtimestamp(time_s, datetime.timezone.utc)  # an offset may lead beyond the year 9999
    except (ValueError, OverflowError):
        raise ValueError(
            f"since: {text[:100]!r} is neither an ISO 8601 time such as 2026-11-01T03:00:00Z nor a duration before the log's end "
            "such as 30d, 12h or 90m"
        ) from None
    return Since(max(time_s, 0.0), None)  # no event is older
