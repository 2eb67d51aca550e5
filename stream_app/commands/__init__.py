"""The subcommands of `foreclick` that a user of the product needs, one file each; `stream_app.cli` lists them.

A command reads its options, calls the room that does the work, and shows the result. May import everything but
`lab`; nothing imports a command.
"""
