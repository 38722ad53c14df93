import pytest


@pytest.fixture(autouse=True)
def group_cache(tmp_path, monkeypatch):
    """Keep cached groups of scans in memory out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
