"""A model folder on disk: files, checksums, signature, and the checks of everything that is read from one."""
