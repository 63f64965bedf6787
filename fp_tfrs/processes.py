"""Processes of this Python that run a module of the project: a search's workers, the probe of an export, a chief's training."""

from __future__ import annotations

import sys


def command_of(module: str, *arguments: str) -> list[str]:
    """What starts `python -m module arguments`, with modules found where this process finds them.

    `-m` by itself looks in the working directory first: a `random.py` that lies there would be run in the library's place.
    """
    places = [place for place in sys.path if isinstance(place, str)]  # Python passes over others
    code = f"import sys; sys.path[:] = {places!r}; import runpy; runpy.run_module({module!r}, None, '__main__', True)"
    return [sys.executable, "-c", code, *arguments]
