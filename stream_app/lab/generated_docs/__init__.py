"""Documentation that is made from the code: the settings page and the AsyncAPI schema."""
