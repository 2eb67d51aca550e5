"""The partition that Kafka's default partitioner chooses, for many keys at once."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_SEED, _M, _R = 0x9747B28C, np.uint32(0x5BD1E995), np.uint32(24)


def partitions_of(keys: Sequence[bytes], partitions: int) -> npt.NDArray[np.int32]:
    """Partition numbers (n,) of n keys among `partitions`: murmur2 with the sign bit cleared, modulo.

    Source: `murmur2` of `org.apache.kafka.common.utils.Utils` and `BuiltInPartitioner.partitionForKey`.
    """
    lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    result = np.empty(len(keys), np.int32)
    for length in np.unique(lengths).tolist():
        of_length = np.flatnonzero(lengths == length)
        joined = b"".join([keys[i] for i in of_length.tolist()])
        data = np.frombuffer(joined, np.uint8).reshape(len(of_length), length)
        result[of_length] = (_murmur2(data) & np.uint32(0x7FFFFFFF)) % np.uint32(partitions)
    return result


def _murmur2(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Hashes (n,) of the rows of `data` (n, length); products wrap at 32 bits, as in the algorithm."""
    n, length = data.shape
    whole = length - length % 4
    words = np.ascontiguousarray(data[:, :whole]).view("<u4")
    h = np.full(n, _SEED ^ length, np.uint32)
    for column in range(whole // 4):
        k = words[:, column] * _M
        k ^= k >> _R
        h = (h * _M) ^ (k * _M)
    if length > whole:
        for place in range(whole, length):
            h ^= data[:, place].astype(np.uint32) << np.uint32(8 * (place - whole))
        h *= _M
    h ^= h >> np.uint32(13)
    h *= _M
    h ^= h >> np.uint32(15)
    return h
