"""Refuses Faust tables: the state of a worker is kept by its processor and recovered by its pipeline."""

from typing import Any, NoReturn

from faust.tables import TableManager

from stream_app.worker.errors import TopologyError


class NoTables(TableManager):
    """Faust's table manager, for an app that has no tables."""

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    def add(self, table: Any) -> NoReturn:
        """Raises TopologyError: the transport would neither write nor read a changelog for the table."""
        raise TopologyError(
            f"the app of a worker has no Faust tables, so {table.name!r} would lose its contents at each restart: "
            "keep it in a Faust app of its own"
        )

    async def on_start(self) -> None:
        """As the base class does, but does not wait a second for tables to be declared."""
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()
