"""Wording shared by error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown `name`.

    >>> nearest("karas", ["uniform", "karras"])
    "did you mean 'karras'? Known: karras, uniform"

    Without a similar name only the known ones are listed.
    """
    options = sorted(set(known))
    listing = f"Known: {', '.join(options) if options else '(none)'}"
    folded = {option.lower(): option for option in options}
    close = difflib.get_close_matches(str(name).lower(), folded, n=1)
    return f"did you mean {folded[close[0]]!r}? {listing}" if close else listing
