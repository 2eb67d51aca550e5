"""Tools to try the product, not part of it: an embedded broker, synthetic traffic, the demo, pages made from code.

The extra `lab` installs what it needs. It may import everything; nothing outside imports it, except `stream_app.cli`,
which only names its commands.
"""
