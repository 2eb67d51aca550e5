"""The fault suite: what is caused and how it is judged is in docs/faults.md."""
