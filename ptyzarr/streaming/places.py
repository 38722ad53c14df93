"""Reading where a loader was: the epoch and batch of a saved state, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ptyzarr.errors import ConfigError

STATE_VERSION: Final = 1


def read_place(
    state: Mapping[str, Any], identity: Mapping[str, Any], n_batches: int
) -> tuple[int, int]:
    """Return the epoch and the next batch of a state.

    At the beginning of an epoch nothing has been delivered, so the state of any number of ranks
    will do.

    Parameters
    ----------
    state
        What `state_dict` gave.
    identity
        What decides the order of this loader.
    n_batches
        Its batches in an epoch.

    Raises
    ------
    ConfigError
        If the state is of another version, of a loader whose order differs, in the middle of an
        epoch of another number of ranks, or at a batch that there is not.
    """
    if not isinstance(state, Mapping) or state.get("version") != STATE_VERSION:
        found = state.get("version") if isinstance(state, Mapping) else state
        raise ConfigError(
            f"the state has version {found!r}; expected what state_dict of version "
            f"{STATE_VERSION} gave"
        )
    epoch, batch = state.get("epoch"), state.get("next_batch")
    if not (isinstance(epoch, int) and isinstance(batch, int)):
        raise ConfigError(f"the state is at epoch {epoch!r}, batch {batch!r}; expected integers")
    _check_order(state.get("order"), identity, epoch, batch)
    if epoch < 0 or not 0 <= batch < n_batches:
        raise ConfigError(
            f"the state is at epoch {epoch}, batch {batch}; expected a batch below {n_batches}"
        )
    return epoch, batch


def _check_order(saved: Any, identity: Mapping[str, Any], epoch: int, batch: int) -> None:
    """Refuse the state of a loader whose batches are others."""
    if not isinstance(saved, Mapping):
        raise ConfigError(f"the state's order is {saved!r}; expected what state_dict gave")
    differing = [name for name, value in identity.items() if saved.get(name) != value]
    if differing == ["world_size"]:
        if batch == 0:
            return
        raise ConfigError(
            f"the state is in the middle of epoch {epoch} (batch {batch}) of world_size "
            f"{saved.get('world_size')!r}; expected {identity['world_size']}; begin that epoch "
            f"again: set_epoch({epoch}) on all ranks instead of loading the state"
        )
    if differing:
        name = differing[0]
        raise ConfigError(
            f"the state is of a loader with another {', '.join(differing)} "
            f"({name}: {saved.get(name)!r}; here {identity[name]!r}); make the loader as it was"
        )
