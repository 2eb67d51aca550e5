"""Kafka's record batches as bytes: reads those of a fetch response, builds those of a produce request.

Pure and mostly compiled. Nothing here opens a connection.
"""
