"""The command `mercury`, also `python -m mercury`: `twistd --nodaemon --pidfile= mercury`, in one word.

All that it does is twistd's and mercury/node/build.py's. Who wants twistd's own flags, another reactor say, calls
twistd.
"""

from __future__ import annotations

import sys

from twisted.scripts import twistd


def main() -> None:
    """Run it; raises SystemExit with its exit code, if that is not 0."""
    sys.argv[:1] = ["mercury", "--nodaemon", "--pidfile=", "mercury"]
    twistd.run()


if __name__ == "__main__":
    main()
