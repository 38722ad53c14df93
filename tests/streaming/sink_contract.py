"""What every sink must do; subclass `SinkContract` for each."""

import dataclasses

import numpy as np
import pytest

from ptyzarr.config import LoaderConfig
from ptyzarr.grouping import object_patches
from ptyzarr.streaming.packing import FramePacking, PackedFrames, pack_frames
from ptyzarr.streaming.recycling import aligned_bytes
from ptyzarr.streaming.sinks import BatchShape, PatchPiece, Piece

N, C, B = 8, 4, 6
SCALE = np.float32(0.7310586)


def make_shape(**changes):
    shape = BatchShape(
        batch_size=B,
        frame_size=N,
        group_size=C,
        stored_dtypes=(np.dtype(np.uint16), np.dtype(np.float32)),
        has_patches=False,
        max_kept=3,
    )
    return dataclasses.replace(shape, **changes)


class SinkContract:
    """Contract tests; a subclass says which device and how to read its arrays."""

    device = "numpy"
    dtypes = ("float32", "float16")

    def make_sink(self, config, shape):
        raise NotImplementedError

    def to_numpy(self, array):
        """Return a delivered array as NumPy, bfloat16 as float32."""
        raise NotImplementedError

    @pytest.fixture
    def make(self):
        sinks = []

        def make(shape=None, **options):
            config = LoaderConfig(device=self.device, **options)
            sinks.append(self.make_sink(config, shape or make_shape()))
            return sinks[-1]

        yield make
        for sink in sinks:
            sink.close()

    @staticmethod
    def counts_piece(rows, seed=0, maximum=2**16):
        rng = np.random.default_rng(seed)
        pool = rng.integers(0, maximum, 50 * N * N, dtype=np.uint16)
        offsets = rng.integers(0, 50, (len(rows), C)) * N * N
        frames = pool.reshape(-1, N, N)[offsets // (N * N)]
        expected = SCALE * np.sqrt(frames.astype(np.float32))
        scales = np.full(len(rows), SCALE, np.float32)
        return Piece(pool, offsets, np.asarray(rows), scales, True), expected

    @staticmethod
    def amplitude_piece(rows, seed=1):
        rng = np.random.default_rng(seed)
        pool = rng.uniform(0, 9, 50 * N * N).astype(np.float32)
        offsets = rng.integers(0, 50, (len(rows), C)) * N * N
        expected = np.float32(2.5) * pool.reshape(-1, N, N)[offsets // (N * N)]
        scales = np.full(len(rows), 2.5, np.float32)
        return Piece(pool, offsets, np.asarray(rows), scales, False), expected

    @staticmethod
    def fields(n_groups):
        return {
            "coords_nn": np.arange(n_groups * 2 * C, dtype=np.float64).reshape(-1, 1, 2, C),
            "nn_indices": np.arange(n_groups * C, dtype=np.int32).reshape(-1, C),
            "scale": np.full(n_groups, SCALE),
        }

    def deliver(self, sink, n_groups, *pieces):
        output = sink.open(n_groups)
        for piece in pieces:
            sink.gather(output, piece)
        return sink.deliver(sink.finish(output, self.fields(n_groups)))

    @pytest.mark.parametrize("channels", ["last", "first"])
    def test_float32_has_the_bits_of_the_reference(self, make, channels):
        piece, expected = self.counts_piece(range(B))
        x = self.to_numpy(self.deliver(make(channels=channels), B, piece)["X"])
        expected = np.moveaxis(expected, 1, -1) if channels == "last" else expected
        assert x.dtype == np.float32
        assert x.shape == expected.shape
        assert x.tobytes() == np.ascontiguousarray(expected).tobytes()

    @pytest.mark.parametrize("channels", ["last", "first"])
    def test_packed_frames_have_the_bits_of_plain_ones(self, make, channels):
        plain, expected = self.counts_piece(range(B), maximum=3)
        frames = plain.frames.reshape(-1, N * N)
        frames[5, 7] = 4000
        expected = SCALE * np.sqrt(
            frames.reshape(-1, N, N)[plain.offsets // (N * N)].astype(np.float32)
        )
        how = FramePacking(frames.dtype, N * N, N * N, 1)
        packed = PackedFrames.over(aligned_bytes(len(frames) * how.frame_nbytes), how)
        assert pack_frames(frames, np.arange(len(frames)) * how.frame_nbytes, packed)
        offsets = plain.offsets // (N * N) * how.frame_nbytes
        piece = dataclasses.replace(plain, frames=packed, offsets=offsets)
        x = self.to_numpy(self.deliver(make(channels=channels), B, piece)["X"])
        expected = np.moveaxis(expected, 1, -1) if channels == "last" else expected
        assert x.tobytes() == np.ascontiguousarray(expected).tobytes()

    @pytest.mark.parametrize("channels", ["last", "first"])
    def test_shorter_floats_are_the_rounded_float32(self, make, channels):
        piece, expected = self.counts_piece(range(B))
        expected = np.moveaxis(expected, 1, -1) if channels == "last" else expected
        for dtype in set(self.dtypes) - {"float32"}:
            x = self.to_numpy(self.deliver(make(channels=channels, dtype=dtype), B, piece)["X"])
            assert x.shape == expected.shape
            error = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]  # half an ulp
            assert (np.abs(x.astype(np.float32) - expected) <= error * expected).all()
            if dtype == "float16":
                assert x.tobytes() == expected.astype(np.float16).tobytes()

    def test_pieces_of_several_scans_fill_one_batch(self, make):
        counts, first = self.counts_piece([4, 0])
        amplitudes, second = self.amplitude_piece([1, 2, 3, 5])
        x = self.to_numpy(self.deliver(make(channels="first"), B, counts, amplitudes)["X"])
        assert x[[4, 0]].tobytes() == first.tobytes()
        assert x[[1, 2, 3, 5]].tobytes() == second.tobytes()

    def test_the_pool_may_change_after_a_piece_is_gathered(self, make):
        sink = make(channels="first")
        piece, expected = self.counts_piece(range(B))
        output = sink.open(B)
        sink.gather(output, piece)
        piece.frames.fill(0)
        x = self.to_numpy(sink.deliver(sink.finish(output, self.fields(B)))["X"])
        assert x.tobytes() == expected.tobytes()

    def test_smaller_batches_have_their_own_shape(self, make):
        piece, expected = self.counts_piece(range(2))
        x = self.to_numpy(self.deliver(make(channels="first"), 2, piece)["X"])
        assert x.shape == (2, C, N, N)
        assert x.tobytes() == expected.tobytes()

    def test_kept_batches_never_change(self, make):
        sink = make(channels="first")
        pieces = [self.counts_piece(range(B), seed) for seed in range(12)]
        kept = [self.deliver(sink, B, piece)["X"] for piece, _ in pieces]
        for x, (_, expected) in zip(kept, pieces, strict=True):
            assert self.to_numpy(x).tobytes() == expected.tobytes()

    def test_the_other_fields_come_through(self, make):
        piece, _ = self.counts_piece(range(B))
        delivered = self.deliver(make(), B, piece)
        for name, array in self.fields(B).items():
            result = self.to_numpy(delivered[name])
            assert result.dtype == array.dtype
            assert result.tobytes() == array.tobytes()
        assert delivered["Y"] is None

    @pytest.mark.parametrize("channels", ["last", "first"])
    def test_patches_are_those_of_the_reference(self, make, channels):
        rng = np.random.default_rng(0)
        guess = (rng.normal(size=(40, 50)) + 1j * rng.normal(size=(40, 50))).astype(np.complex64)
        offsets = rng.uniform(10, 30, (B, 1, 2, 1))
        relative = rng.uniform(-4, 4, (B, 1, 2, C))
        sink = make(make_shape(has_patches=True), channels=channels, patches=True)
        assert sink.wants_patches
        output = sink.open(B)
        sink.gather(output, self.counts_piece(range(B))[0])
        for rows in (np.array([3, 0]), np.array([1, 2, 4, 5])):
            sink.draw_patches(output, PatchPiece(guess, offsets[rows], relative[rows], rows))
        y = self.to_numpy(sink.deliver(sink.finish(output, self.fields(B)))["Y"])
        expected = object_patches(guess, offsets, relative, N)
        expected = expected if channels == "last" else np.moveaxis(expected, -1, 1)
        assert y.dtype == np.complex64
        assert y.shape == expected.shape
        # As the reference states for |object| ~ 1; a device may fuse multiply and add.
        np.testing.assert_allclose(y, expected, atol=2.5e-6)

    def test_a_batch_may_be_discarded(self, make):
        sink = make(channels="first")
        for _ in range(10):
            sink.discard(sink.open(B))
        piece, expected = self.counts_piece(range(B))
        x = self.to_numpy(self.deliver(sink, B, piece)["X"])
        assert x.tobytes() == expected.tobytes()

    def test_memory_is_stated(self, make):
        assert make().batch_nbytes >= B * C * N * N * 2
