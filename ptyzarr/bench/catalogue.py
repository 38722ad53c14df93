"""All contenders by key."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from ptyzarr.bench.bynumber import make_map_trial
from ptyzarr.bench.contender import Contender
from ptyzarr.bench.decoding import (
    CodecTrial,
    DecodeTrial,
    RandomChunksTrial,
    SameChunksTrial,
    make_checked_codec_trial,
)
from ptyzarr.bench.duplicated import make_blocks_trial, make_tensordict_trial
from ptyzarr.bench.files import BLOCKS, DUPLICATED, HDF5, RAW, SINGLE
from ptyzarr.bench.intake import (
    DiskTrial,
    EncodeTrial,
    IngestTrial,
    LoadAndWriteTrial,
    LoadTrial,
    NumcodecsTrial,
    ReadTrial,
    file_frames,
)
from ptyzarr.bench.ours import (
    FirstEpochTrial,
    GatherTrial,
    loader_maker,
    make_packed_gather_trial,
    resident_integers,
)
from ptyzarr.bench.peers import (
    make_hdf5_trial,
    make_single_trial,
    make_single_zarrs_trial,
    make_store_trial,
    make_store_zarrs_trial,
    make_tensorstore_single_trial,
    make_tensorstore_trial,
    make_workers_trial,
    make_workers_zarrs_trial,
)
from ptyzarr.bench.ram import (
    make_memmap_trial,
    make_torch_ahead_trial,
    make_torch_trial,
    resident_amplitudes,
)

_OURS: Final = (
    Contender(
        key="window",
        label="ptyzarr window",
        how="GroupLoader, windows of 24 tiles from all over the scan, NumPy arrays",
        make=loader_maker("window"),
    ),
    Contender(
        key="full",
        label="ptyzarr full",
        how="GroupLoader, uniform shuffle, NumPy arrays",
        make=loader_maker("full"),
    ),
    Contender(
        key="canonical",
        label="ptyzarr canonical order",
        how="GroupLoader, no shuffle, NumPy arrays",
        make=loader_maker(False),
    ),
    Contender(
        key="map",
        label="ptyzarr map style",
        how="GroupMapDataset in torch's DataLoader, a BatchSampler of a RandomSampler, no workers; "
        "nothing is read ahead",
        make=make_map_trial,
        needs=("torch", "torch.utils.data"),
    ),
    Contender(
        key="map-items",
        label="ptyzarr map style, items",
        how="GroupMapDataset in torch's DataLoader, shuffled, no workers; torch puts each batch "
        "together out of its groups",
        make=partial(make_map_trial, by_item=True),
        needs=("torch", "torch.utils.data"),
    ),
    Contender(
        key="gather",
        label="ceiling: gather kernel alone",
        how="our fused kernel from stored integers that are all in memory, uniform shuffle, "
        "each thread into memory that is used again",
        make=GatherTrial,
        resident=resident_integers,
    ),
    Contender(
        key="gather-packed",
        label="ceiling: gather of packed frames",
        how="the same from frames packed as in our pool",
        make=make_packed_gather_trial,
        resident=resident_integers,
    ),
    Contender(
        key="decode",
        label="decode alone",
        how="every chunk read, checked and decoded once, in order; groups of such an epoch",
        make=DecodeTrial,
    ),
)
_PLAIN: Final = (
    Contender(
        key="ram",
        label="RAM float32 index_select",
        how="torch.index_select from the whole scan in memory into memory that is used again; "
        "for channels last a strided copy for each channel; torch's threads inside a batch",
        make=make_torch_trial,
        needs=("torch",),
        files=(RAW,),
        resident=resident_amplitudes,
    ),
    Contender(
        key="ram-ahead",
        label="RAM float32 index_select, ahead",
        how="the same in one torch thread a batch, as many batches at once as there are threads",
        make=make_torch_ahead_trial,
        needs=("torch",),
        files=(RAW,),
        resident=resident_amplitudes,
    ),
    Contender(
        key="memmap",
        label="numpy.memmap gather",
        how="numpy.take from a mapped float32 npy, MADV_RANDOM, into memory that is used again; "
        "mapped pages count as its memory",
        make=make_memmap_trial,
        files=(RAW,),
    ),
)
_CHUNKED: Final = (
    Contender(
        key="zarr-store",
        label="zarr-python oindex, our store",
        how="distinct frames of a batch, ascending, one oindex",
        make=make_store_trial,
    ),
    Contender(
        key="zarr-single",
        label="zarr-python oindex, chunk 1",
        how="distinct frames of a batch, one oindex; same integers, lz4, a file for each frame",
        make=make_single_trial,
        files=(SINGLE,),
    ),
    Contender(
        key="zarrs-store",
        label="zarrs oindex, our store",
        how="as zarr-python, codecs run by zarrs",
        make=make_store_zarrs_trial,
        needs=("zarrs",),
    ),
    Contender(
        key="zarrs-single",
        label="zarrs oindex, chunk 1",
        how="as zarr-python, codecs run by zarrs",
        make=make_single_zarrs_trial,
        needs=("zarrs",),
        files=(SINGLE,),
    ),
    Contender(
        key="tensorstore-store",
        label="TensorStore index array, our store",
        how="distinct frames of a batch, ascending, one read; the budget is a cache of decoded "
        "chunks, checked once",
        make=make_tensorstore_trial,
        needs=("tensorstore",),
    ),
    Contender(
        key="tensorstore-single",
        label="TensorStore index array, chunk 1",
        how="distinct frames of a batch, one read; same integers, lz4, a file for each frame; the "
        "budget is a cache of decoded chunks, checked once",
        make=make_tensorstore_single_trial,
        needs=("tensorstore",),
        files=(SINGLE,),
    ),
    Contender(
        key="hdf5",
        label="h5py, chunk 1",
        how="distinct frames of a batch, ascending, one read each; same integers, lzf and byte "
        "shuffle",
        make=make_hdf5_trial,
        needs=("h5py",),
        files=(HDF5,),
    ),
    Contender(
        key="workers",
        label="DataLoader workers, zarr-python",
        how="torch DataLoader, a worker process for each thread, a group an item, chunk 1",
        make=make_workers_trial,
        needs=("torch", "torch.utils.data"),
        files=(SINGLE,),
    ),
    Contender(
        key="workers-zarrs",
        label="DataLoader workers, zarrs",
        how="as above, codecs run by zarrs",
        make=make_workers_zarrs_trial,
        needs=("torch", "torch.utils.data", "zarrs"),
        files=(SINGLE,),
    ),
)
_DUPLICATED: Final = (
    Contender(
        key="tensordict",
        label="TensorDict map of duplicated groups",
        how="PtychoPINN's way: every group in full, float32, indexed by a random list; mapped "
        "pages count as its memory",
        make=make_tensordict_trial,
        needs=("torch", "tensordict"),
        files=(DUPLICATED,),
    ),
    Contender(
        key="blocks",
        label="blocks of duplicated groups",
        how="annbatch's way: groups in full, shuffled once when written, 16 random blocks of 16 "
        "read together (by zarrs where installed) and shuffled in memory; same integers, lz4",
        make=make_blocks_trial,
        files=(BLOCKS,),
    ),
)

_INGESTERS: Final = (
    Contender(
        key="ingest",
        label="ptyzarr ingest",
        how="every frame checked, hashed, ordered, compressed, forced to disk and published",
        make=IngestTrial,
    ),
    Contender(
        key="numpy-load",
        label="numpy.load",
        how="the frames in memory, nothing written",
        make=LoadTrial,
        resident=file_frames,
    ),
    Contender(
        key="numpy-zarr",
        label="numpy.load, zarr write",
        how="the frames in memory, then one zarr array: float32, lz4 bit shuffle, 16 a chunk, "
        "4,096 a shard, codecs run by zarrs where installed; not forced to disk",
        make=LoadAndWriteTrial,
        resident=file_frames,
    ),
    Contender(
        key="inflate",
        label="member read alone",
        how="the member's bytes read (and inflated by isal, CRC-32 included) in 4 MiB pieces",
        make=ReadTrial,
    ),
    Contender(
        key="encode",
        label="codec alone",
        how="our chunks (16-bit counts) compressed and summed in memory by our compiled loop, all "
        "threads",
        make=EncodeTrial,
    ),
    Contender(
        key="encode-numcodecs",
        label="codec alone, numcodecs",
        how="the same chunks, each by a call of numcodecs.Blosc, all threads",
        make=NumcodecsTrial,
    ),
    Contender(
        key="disk",
        label="disk alone",
        how="the bytes of all shards written to files of 16 MiB, each forced to the disk",
        make=DiskTrial,
    ),
)

_DECODERS: Final = (
    Contender(
        key="random-chunks",
        label="random chunks out of shards",
        how="our reader: read by position, checked, decoded; ascending in calls of about 2 MiB",
        make=RandomChunksTrial,
    ),
    Contender(
        key="codec-checked",
        label="codec and CRC-32C alone",
        how="the same chunks' bytes in memory, one compiled loop, random order",
        make=make_checked_codec_trial,
    ),
    Contender(
        key="codec",
        label="codec alone",
        how="the same without the checksums",
        make=CodecTrial,
    ),
    Contender(
        key="same-chunks",
        label="the same chunks decoded alone",
        how="what an epoch of full shuffle decodes, in its order and its calls, with all threads",
        make=SameChunksTrial,
    ),
    Contender(
        key="first-epoch",
        label="ptyzarr window, first epoch",
        how="as the window shuffle, a new loader for each epoch, so that every chunk is decoded",
        make=FirstEpochTrial,
    ),
)

INGESTERS: Final[Mapping[str, Contender]] = {contender.key: contender for contender in _INGESTERS}

DECODERS: Final[Mapping[str, Contender]] = {contender.key: contender for contender in _DECODERS}
CONTENDERS: Final[Mapping[str, Contender]] = {
    contender.key: contender for contender in (*_OURS, *_PLAIN, *_CHUNKED, *_DUPLICATED)
}
