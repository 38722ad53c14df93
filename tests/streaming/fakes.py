"""In-memory scans that are read like stores."""

import threading

import numpy as np


class FakeChunks:
    """A `ChunkReader` over an array of stored rows; decoding is a copy."""

    def __init__(self, stored, chunk_frames):
        self.n_frames = len(stored)
        self.frame_shape = stored.shape[1:]
        self.dtype = stored.dtype
        self.chunk_frames = chunk_frames
        self.n_chunks = -(-self.n_frames // chunk_frames)
        self.chunk_nbytes = chunk_frames * stored[0].nbytes
        self.calls = []
        self.broken = None
        self.gate = threading.Event()
        self.gate.set()
        self.on_read = None
        self._bytes = stored.reshape(-1).view(np.uint8)
        self._lock = threading.Lock()

    def prepare(self):
        """There is nothing to compile."""

    @property
    def decoded(self):
        return [chunk for call in self.calls for chunk in call]

    def read_chunks(self, chunks, slots, out):
        assert (np.diff(chunks) > 0).all()
        assert len(np.unique(slots)) == len(slots)
        assert out.shape[1] >= self.chunk_nbytes
        if self.on_read is not None:
            self.on_read, hook = None, self.on_read
            hook()
        self.gate.wait()
        with self._lock:
            self.calls.append(chunks.tolist())
        n_read = 0
        for chunk, slot in zip(chunks.tolist(), slots.tolist(), strict=True):
            if chunk == self.broken:
                raise OSError("broken chunk")
            part = self._bytes[chunk * self.chunk_nbytes : (chunk + 1) * self.chunk_nbytes]
            # Readers of a slot that is being written see nonsense, so races show.
            out[slot] = 0xFF
            out[slot, : part.size] = part
            n_read += part.size
        return n_read


class FakeScan:
    """A `StreamableScan` with frames in memory, stored in an order of its own."""

    def __init__(
        self,
        n_frames=200,
        frame_size=8,
        *,
        dtype=np.uint16,
        quantity="counts",
        chunk_frames=4,
        tile_frames=8,
        seed=0,
        layout="hilbert",
        digest=None,
        n_modes=None,
        with_object=True,
        position_dtype=np.float64,
        mean_count=5.0,
        limits_known=False,
    ):
        rng = np.random.default_rng(seed)
        frames = rng.poisson(mean_count, (n_frames, frame_size, frame_size))
        if quantity == "counts":
            self.frames = frames.astype(dtype)
        else:
            self.frames = (np.sqrt(frames) * 1.7).astype(dtype)
        width = max(1, int(np.sqrt(n_frames)))
        grid = np.stack([np.arange(n_frames) % width, np.arange(n_frames) // width], axis=1)
        jitter = rng.uniform(-0.3, 0.3, grid.shape)
        self.positions = ((grid + jitter) * 3.0).astype(position_dtype)
        self.positions_start = None
        self.scan_index = np.zeros(n_frames, np.int64)
        block = np.arange(n_frames) // 10
        key = np.lexsort((np.arange(n_frames), -block))
        self.frame_index = key.astype(np.int64) if layout == "hilbert" else np.arange(n_frames)
        self.n_frames, self.frame_size = n_frames, frame_size
        self.quantity, self.layout, self.tile_frames = quantity, layout, tile_frames
        self.amplitude_dtype = np.dtype(np.float32) if quantity == "counts" else np.dtype(dtype)
        everything = self.amplitude(np.arange(n_frames)).astype(np.float64)
        self.frame_power = np.array([np.sum(frame**2) for frame in everything])
        shape = (frame_size, frame_size) if n_modes is None else (n_modes, frame_size, frame_size)
        self.probe_guess = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(
            np.complex64
        )
        self.object_guess = None
        if with_object:
            size = int(self.positions.max()) + 2 * frame_size
            values = rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size))
            self.object_guess = values.astype(np.complex64)
        self.pixel_limits = None
        if limits_known:
            wide = (frames > 255).sum(axis=(1, 2)).max() if quantity == "counts" else 0
            self.pixel_limits = int((frames != 0).sum(axis=(1, 2)).max()), int(wide)
        self.digest = digest or f"fake-{seed}-{n_frames}-{frame_size}"
        self.path = f"memory://{self.digest}.zarr"
        self.chunks = FakeChunks(np.ascontiguousarray(self.frames[self.frame_index]), chunk_frames)

    def amplitude(self, indices):
        frames = self.frames[indices]
        return np.sqrt(frames.astype(np.float32)) if self.quantity == "counts" else frames
