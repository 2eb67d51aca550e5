"""All settings: their declarations with limits and descriptions, and the sources they are read from.

May import `contract`, and `model.training.settings` for the table `[train]`. Knows nothing of who uses a setting.
"""

from stream_app.settings.declarations import DAY_MS, HORIZON_MS, Settings, fields
from stream_app.settings.flag_limits import Rules
from stream_app.settings.loading import load_settings

__all__ = ["DAY_MS", "HORIZON_MS", "Rules", "Settings", "fields", "load_settings"]
