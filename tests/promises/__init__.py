"""What holds Mercury to its promises: faults, played while everybody talks, and a checker of what they saw."""
