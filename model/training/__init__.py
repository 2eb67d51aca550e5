"""Training: the loop, losses, calibration, export. `api` is its door for other packages.

A worker imports nothing from here but `settings`.
"""
