"""The subcommands of `foreclick` that a user of the product needs; `stream_app.cli` says which file has which.

A command reads its options, calls the room that does the work, and shows the result. May import everything but
`lab`; nothing imports a command.
"""
