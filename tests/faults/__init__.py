"""The fault suite; docs/faults.md describes the faults and the checks."""
