"""Not the product: what tries it out. An embedded broker, synthetic traffic, the demo, the pages made from code.

Installed with the extra `lab`. May import everything; nothing outside of it imports it, but `stream_app.cli`, which
only names its commands.
"""
