"""Where things are in the project, so that a test need not know how deep it lies."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
