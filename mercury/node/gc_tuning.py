"""How often Python looks for garbage that refers to itself.

As it comes, it looks whenever there are 700 objects more than before: several times for each batch of messages, whose
objects all go by themselves a moment later. With 2,000 clients that send at once this took 9% of a node's time.
"""

from __future__ import annotations

import gc
from typing import Final

#: Objects that may come into being before the new ones are looked through: more than those of a batch that is under
#: way, and little memory, since all that a closed connection leaves behind is some hundred of them.
NEW: Final = 50_000


def look_seldom() -> None:
    """From now on look after NEW objects, and never again through those that are there now: a node is made of these."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW, *gc.get_threshold()[1:])
