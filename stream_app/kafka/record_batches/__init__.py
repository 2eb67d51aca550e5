"""Record batches of Kafka as bytes: reading those that a fetch brought, building those that are sent.

Pure and mostly compiled. Nothing here opens a connection.
"""
