"""What Schemathesis cannot read from /openapi.json: what a name may be. Loaded by it in test_openapi.py's run."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

from mercury.domain.model import NAME_BYTES

THERE = ("lobby", "ann", "a/b")  # rooms and members with these names are there, so that calls find something

made_up = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=NAME_BYTES).filter(
    lambda name: len(name.encode()) <= NAME_BYTES
)
schemathesis.openapi.format("name", st.sampled_from(THERE) | made_up)
