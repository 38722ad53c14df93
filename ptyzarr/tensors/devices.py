"""What a sink needs of a device: staging memory, transfers that run by themselves, uploads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import torch
from numpy.typing import NDArray

from ptyzarr.errors import DeviceError
from ptyzarr.tensors.arrays import as_tensor

Tensors = dict[str, Any]
Work = Callable[[Sequence[torch.Tensor]], Tensors]


class Transfer(Protocol):
    """Copies to a device and the work on them, under way."""

    def wait_copied(self) -> None:
        """Return once the sources have been read to the end and may be overwritten."""
        ...

    def receive(self) -> Tensors:
        """Return what the work made; the caller's later work on the device waits for it.

        Called once, in the thread that will use the tensors. The caller itself does not wait.
        """
        ...


class Device(Protocol):
    """A device that copies and computes while the host goes on."""

    def staging_nbytes(self, nbytes: int) -> int:
        """Return the host memory that `allocate` takes for `nbytes`."""
        ...

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Return (nbytes,) uint8 in host memory from which the device can copy by itself."""
        ...

    def upload(self, array: NDArray[Any]) -> torch.Tensor:
        """Return a copy on the device, complete."""
        ...

    def submit(self, sources: Sequence[torch.Tensor], work: Work) -> Transfer:
        """Start copying `sources` to the device and `work` on the copies; do not wait.

        The sources must not change before `Transfer.wait_copied` has returned.
        """
        ...

    def synchronize(self) -> None:
        """Return once everything submitted is complete."""
        ...


class CudaTransfer:
    """A transfer on a side stream."""

    def __init__(
        self, device: torch.device, copied: torch.cuda.Event, ready: torch.cuda.Event, made: Tensors
    ) -> None:
        self._device, self._copied, self._ready, self._made = device, copied, ready, made

    def wait_copied(self) -> None:
        """Sleep until the copies are complete; the GIL is free meanwhile."""
        self._copied.synchronize()

    def receive(self) -> Tensors:
        """Let the caller's current stream wait for the side stream."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(self._ready)
        for tensor in self._made.values():
            if tensor is not None:
                # Its memory belongs to the side stream, which would use it again as soon as the
                # last reference is gone, whatever the receiver's stream is still doing with it.
                tensor.record_stream(current)
        return self._made


class CudaDevice:
    """One CUDA device with a side stream of its own.

    Parameters
    ----------
    name
        ``"cuda"`` (the current device) or ``"cuda:N"``.

    Raises
    ------
    DeviceError
        If there is no such device.
    """

    def __init__(self, name: str) -> None:
        self.device: Final = find_cuda(name)
        # torch does not annotate the constructors of streams and events.
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def staging_nbytes(self, nbytes: int) -> int:
        """Return the next power of two: torch rounds pinned memory up."""
        return 1 << max(nbytes - 1, 0).bit_length()

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Return pinned memory.

        Raises
        ------
        DeviceError
            If the system pins no more.
        """
        try:
            # Pinning makes a context on the thread's current device, which may be another one.
            with torch.cuda.device(self.device):
                return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            raise DeviceError(
                f"{nbytes} bytes of memory cannot be pinned for {self.device}; lower batch_size "
                f"or raise the limit on locked memory ({error})"
            ) from error

    def upload(self, array: NDArray[Any]) -> torch.Tensor:
        """Return a copy on the device, complete."""
        return as_tensor(array).to(self.device)

    def submit(self, sources: Sequence[torch.Tensor], work: Work) -> CudaTransfer:
        """Queue the copies and the work on the side stream."""
        # Blocking events let the waiting thread sleep, so that its core can decode.
        copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            copies = [source.to(self.device, non_blocking=True) for source in sources]
            copied.record(self._stream)
            made = work(copies)
            ready.record(self._stream)
        return CudaTransfer(self.device, copied, ready, made)

    def synchronize(self) -> None:
        """Wait for the side stream."""
        self._stream.synchronize()


def find_cuda(name: str) -> torch.device:
    """Return the CUDA device of that name, with its number.

    Raises
    ------
    DeviceError
        If torch finds no such device; the message lists what there is.
    """
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_devices == 0:
        raise DeviceError(
            f"device is {name!r}, and torch {torch.__version__} finds no CUDA device; use "
            "device='cpu', or install a torch and a driver that support the device"
        )
    asked = torch.device(name)
    number = torch.cuda.current_device() if asked.index is None else asked.index
    if number >= n_devices:
        found = ", ".join(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(n_devices))
        raise DeviceError(f"device is {name!r}; expected one of those that torch finds: {found}")
    return torch.device("cuda", number)
