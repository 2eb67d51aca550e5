"""Per-user state: one fixed-size row a user, advanced by a compiled kernel, kept durable by a changelog.

Pure in-memory logic but for `recovery`, which reads the changelog topic. Nothing here knows of Faust except
`table`, which shows the rows to Faust users.
"""
