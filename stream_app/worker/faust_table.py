"""The user state as a Faust table: `app.tables["users"]["u17"]`.

The table is for reading. Its rows change only by events, its changelog is written in batches by the pipeline, and
it is recovered by the pipeline, so Faust's own recovery passes it by.
"""

import asyncio
from collections.abc import Iterator
from typing import Any, NoReturn

from faust.stores.base import Store
from faust.tables import TableManager
from faust.tables.table import Table
from faust.types import TP

from stream_app.processing.shop_processor import ShopProcessor
from stream_app.state import view

NAME = "users"


class UserStore(Store):
    """A mapping from user_id to what is kept of the user, over the processor's columns.

    A value read while a micro-batch is being applied may show some of its events and not others.
    """

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    processor: ShopProcessor

    def persisted_offset(self, tp: TP) -> int | None:
        """Nothing is persisted on this machine."""
        return None

    def __getitem__(self, user_id: str) -> dict[str, Any]:
        slot = self.processor.users.find_anywhere(user_id)
        if slot is None:
            raise KeyError(user_id)
        return view.user(self.processor.users, slot, self.processor.items, self.processor.categories)

    def __iter__(self) -> Iterator[str]:
        for partition in list(self.processor.users.count):
            yield from self.processor.users.mapping(partition)

    def __len__(self) -> int:
        return len(self.processor.users)

    def __contains__(self, user_id: object) -> bool:
        return isinstance(user_id, str) and self.processor.users.find_anywhere(user_id) is not None

    def __setitem__(self, key: str, value: Any) -> NoReturn:
        raise TypeError("the table of users is for reading: it changes by events only")

    def __delitem__(self, key: str) -> NoReturn:
        raise TypeError("the table of users is for reading: it changes by events only")

    def apply_changelog_batch(self, *_: Any, **__: Any) -> NoReturn:
        """Not for Faust's recovery: see `agents.recovery`."""
        raise TypeError("the table of users is recovered by the pipeline")

    def reset_state(self) -> None:
        """Nothing to reset on this machine."""

    async def backup_partition(self, *_: Any, **__: Any) -> NoReturn:
        """The changelog is the backup."""
        raise NotImplementedError("the changelog topic is the backup of the table of users")

    def restore_backup(self, *_: Any, **__: Any) -> NoReturn:
        """The changelog is the backup."""
        raise NotImplementedError("the changelog topic is the backup of the table of users")


class UserTable(Table):
    """The table of users."""

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    def __init__(self, app: Any, processor: ShopProcessor, **kwargs: Any) -> None:
        super().__init__(app, name=NAME, help="Windows, last events and counters of each user.", **kwargs)
        store = UserStore("memory://", app, self, table_name=NAME)
        store.processor = processor
        self._data = store

    async def on_start(self) -> None:
        """The changelog topic is made by `foreclick topics`, not here."""
        await self.add_runtime_dependency(self.data)

    def _has_key(self, key: str) -> bool:
        return key in self.data

    def _get_key(self, key: str) -> Any:
        return self.data[key]

    def info(self) -> dict[str, Any]:
        """Attributes for a clone."""
        return {**super().info(), "processor": self.data.processor}


class UserTableManager(TableManager):
    """Faust's table manager for tables whose recovery is not Faust's affair."""

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    def add(self, table: Any) -> Any:
        """Registers a table without a changelog that Faust would subscribe to and read."""
        self[table.name] = table
        return table

    async def _update_channels(self) -> None:
        self._tables_finalized.set()
        for table in self.values():
            await table.maybe_start()
            await asyncio.sleep(0)
        self._tables_registered.set()

    async def on_start(self) -> None:
        """As the base class does, without its second of waiting for tables to be declared."""
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()
