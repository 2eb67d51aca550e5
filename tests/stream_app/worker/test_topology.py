"""A worker's app refuses a Faust table and a second agent."""

from pathlib import Path
from typing import Any

import faust
import pytest

from stream_app.agents.shop import create_app
from stream_app.settings import load_settings
from stream_app.worker.errors import TopologyError


@pytest.fixture
async def app(tmp_path: Path) -> faust.App:
    """The app of a worker that has not started."""
    return create_app(
        load_settings(env={}, options={"data_dir": str(tmp_path), "web": ""}), None, partitions=1
    )


@pytest.mark.parametrize("kind", ["Table", "GlobalTable", "SetTable"])
async def test_a_table_is_refused(app: faust.App, kind: str) -> None:
    """A table is refused: it would silently lose its contents, since the transport reads no changelog for it."""
    with pytest.raises(
        TopologyError, match="the app of a worker has no Faust tables, so 'visits' would lose"
    ):
        getattr(app, kind)("visits")
    assert not app.tables


async def test_a_second_agent_is_refused_at_the_start(app: faust.App) -> None:
    """A second agent is refused: its offsets would never be committed, and its values would be whole batches."""

    @app.agent(app.topic("clicks"))
    async def another(stream: Any) -> None: ...

    with pytest.raises(TopologyError, match=r"this one has 2 \(.*process, .*another\): run other"):
        await app.pipeline.on_start()


async def test_one_agent_is_fine(app: faust.App) -> None:
    """The app of `create_app` is accepted."""
    await app.pipeline.on_start()
