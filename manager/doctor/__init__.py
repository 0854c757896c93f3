"""What `llamaherd doctor` looks at: a module for each area, and `examine`, which asks them all. Nothing is changed."""

from __future__ import annotations

from manager.doctor.examination import examine
from manager.doctor.finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
