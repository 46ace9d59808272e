"""Keyed randomness: every draw is a pure function of seed, stream, image id and counter, and of nothing else.

Hence a draw for an image does not depend on batch size, order, shard, worker, device or any global random state, and
is the same for every model. A *stream* names a purpose (``"patchdrop.mask"``): variants that should share their masks
share a stream. Two calls with equal seed, stream and id see the *same* bits, so each purpose needs its own stream, or
its own range of counters where the function has ``start``.

Integers come from a counter-based hash in vectorised uint64 arithmetic, the same bits on every machine. Dense noise
comes from NumPy's Philox generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), one
generator per image.

The hash: a 128-bit key (k0, k1) per image is BLAKE2b (RFC 7693) of the id, itself keyed by BLAKE2b of seed and stream.
Draw number c is ``mix(mix(k0 + (c + 1) * GAMMA) + k1)``, where GAMMA is the odd increment of SplitMix64 and ``mix``
its finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, there ``mix64``
with David Stafford's variant 13). One round is SplitMix64 itself; adding k1 before a second round keeps two images
whose k0 lie a few GAMMA apart from drawing shifted copies of one sequence. For a fixed image the map from c to the
draw is a bijection of 64-bit words, so two cells of an image never tie.
"""

from __future__ import annotations

import hashlib
import operator
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_LOW_HALF = np.uint64(0xFFFFFFFF)


def bits(seed: int, stream: str, ids: Sequence[str], count: int, *, start: int = 0) -> npt.NDArray[np.uint64]:
    """64 random bits per image and counter: (N, count) uint64, for counters ``start`` to ``start + count - 1``.

    Any integer is a seed and any string a stream or an id; ``ids`` may repeat and may be empty. Raises
    :class:`~harness.errors.ParameterError` for a negative ``count`` or ``start``, for counters beyond 2**64, and for a
    single string as ``ids``.

    >>> whole = bits(0, "mask", ["cat.png", "dog.png"], 4)
    >>> bool((bits(0, "mask", ["dog.png"], 2, start=2) == whole[1:, 2:]).all())
    True
    """
    count = _whole("count", count)
    start = _whole("start", start)
    if start + count > 2**64:
        raise ParameterError(f"rng: start={start} and count={count} reach beyond the last counter, 2**64 - 1")
    keys = _keys(b"bits", seed, stream, ids)
    # Unsigned arrays wrap silently; that wrap-around is the arithmetic modulo 2**64 that the hash is defined in.
    steps = (np.arange(count, dtype=np.uint64) + _word(start + 1)) * _GAMMA
    words = keys[:, :1] + steps
    scratch = np.empty_like(words)
    _mix(words, scratch)
    words += keys[:, 1:]
    _mix(words, scratch)
    return words


def uniforms(seed: int, stream: str, ids: Sequence[str], count: int, *, start: int = 0) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 random bits: (N, count) float64. Raises as :func:`bits` does.

    For a few numbers per image; :func:`dense_uniforms` serves whole images.

    >>> uniforms(0, "angle", ["cat.png"], 2).shape
    (1, 2)
    """
    return (bits(seed, stream, ids, count, start=start) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(
    seed: int, stream: str, ids: Sequence[str], count: int, low: int, high: int, *, start: int = 0
) -> npt.NDArray[np.int64]:
    """Integers in [low, high): (N, count) int64.

    The upper word of the product of 64 random bits and the width ``high - low`` (Lemire, "Fast random integer
    generation in an interval", ACM TOMACS 2019), without rejection, so that a counter is always one draw. Each value's
    probability lies within 2**-64 of ``1 / width``, hence a relative bias below ``width / 2**64``.
    Raises as :func:`bits` does, and for ``low >= high`` or bounds that int64 cannot hold.

    >>> integers(0, "target", ["cat.png"], 3, 5, 6)
    array([[5, 5, 5]])
    """
    low, high = _integer("low", low), _integer("high", high)
    if low >= high:
        raise ParameterError(f"rng: low={low} must lie below high={high}", hint="high itself is never drawn")
    if low < -(2**63) or high > 2**63:
        raise ParameterError(f"rng: [{low}, {high}) does not fit into 64-bit signed integers")
    words = bits(seed, stream, ids, count, start=start)
    offsets = _multiply_high(words, high - low)
    offsets += _word(low)
    return offsets.view(np.int64)


def permutations(seed: int, stream: str, ids: Sequence[str], n: int) -> npt.NDArray[np.int64]:
    """A uniformly random order of ``n`` cells per image: (N, n) int64, row i listing cells by rising :func:`bits`.

    The inverse of :func:`ranks` for the same arguments. Raises as :func:`bits` does, with ``n`` as the count.

    >>> sorted(permutations(0, "shuffle", ["cat.png"], 4)[0].tolist())
    [0, 1, 2, 3]
    """
    return np.argsort(bits(seed, stream, ids, _whole("n", n)), axis=1)


def ranks(seed: int, stream: str, ids: Sequence[str], n: int) -> npt.NDArray[np.int64]:
    """A uniformly random rank in [0, n) for each of ``n`` cells per image: (N, n) int64, each rank once a row.

    Raises as :func:`permutations` does.

    >>> sorted(ranks(0, "mask", ["cat.png"], 4)[0].tolist())
    [0, 1, 2, 3]
    """
    order = permutations(seed, stream, ids, n)
    places = np.empty_like(order)
    rising = np.arange(order.shape[1], dtype=np.int64)
    for row, cells in zip(places, order, strict=True):  # three times as fast as np.put_along_axis at 196 cells
        row[cells] = rising
    return places


def subsets(seed: int, stream: str, ids: Sequence[str], n: int, k: int) -> npt.NDArray[np.bool_]:
    """A uniformly random set of exactly ``k`` of ``n`` cells per image: (N, n) bool.

    Equals ``ranks(...) < k``, so for one image the sets are nested: the set for k holds the set for every smaller k.
    Callers that need several k take :func:`ranks` once. Raises as :func:`permutations` does, and unless 0 <= k <= n.

    >>> subsets(0, "mask", ["cat.png", "dog.png"], 196, 98).sum(axis=1)
    array([98, 98])
    """
    n, k = _whole("n", n), _whole("k", k)
    if k > n:
        raise ParameterError(f"rng: cannot choose k={k} of n={n} cells")
    return ranks(seed, stream, ids, n) < k


def normals(seed: int, stream: str, ids: Sequence[str], shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """Standard normal noise per image, as for a whole picture: (N, *shape) float32.

    Drawn by NumPy's ziggurat in double precision and then rounded: the ziggurat's rare tail cases call the C library's
    logarithm and exponential, and rounding hides a last bit in which two C libraries differ. NumPy promises the stream
    of Philox itself but not that of the ziggurat (NEP 19); a digest in the tests would show a change.
    Raises :class:`~harness.errors.ParameterError` for a negative length in ``shape`` and for a single string as ids.

    >>> normals(0, "gaussian_noise", ["cat.png"], (3, 8, 8)).shape
    (1, 3, 8, 8)
    """
    lengths = _lengths(shape)
    noise = np.empty((len(ids), *lengths), dtype=np.float32)
    for place, generator in enumerate(_philox(b"normals", seed, stream, ids)):
        noise[place] = np.random.Generator(generator).standard_normal(lengths)
    return noise


def dense_uniforms(seed: int, stream: str, ids: Sequence[str], shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """Uniform noise per image in [0, 1) with 24 random bits: (N, *shape) float32.

    The upper 24 bits of Philox's raw words, whose stream NumPy promises (NEP 19). Raises as :func:`normals` does.

    >>> dense_uniforms(0, "impulse_noise", ["cat.png"], (8, 8)).dtype
    dtype('float32')
    """
    lengths = _lengths(shape)
    noise = np.empty((len(ids), *lengths), dtype=np.float32)
    for place, generator in enumerate(_philox(b"uniforms", seed, stream, ids)):
        noise[place] = generator.random_raw(lengths) >> np.uint64(40)
    noise *= np.float32(2.0**-24)
    return noise


def _keys(purpose: bytes, seed: int, stream: str, ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """128 bits per image: (N, 2) uint64. ``purpose`` keeps the hash and the dense generators apart."""
    if isinstance(ids, str):
        raise ParameterError(f"rng: ids must be a sequence of strings, not the string {ids!r}", hint="use [id]")
    # A decimal number holds no NUL, so no two pairs of seed and stream spell the same text.
    text = f"{_integer('seed', seed)}\0{stream}"
    parent = hashlib.blake2b(
        key=hashlib.blake2b(_encode(text), digest_size=32).digest(), digest_size=16, person=purpose
    )
    digests = bytearray()
    for name in ids:
        child = parent.copy()
        child.update(_encode(name))
        digests += child.digest()
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64, copy=False).reshape(-1, 2)


def _encode(text: str) -> bytes:
    # File names that are not valid UTF-8 reach Python as lone surrogates; they still need a key, and one of their own.
    return text.encode("utf-8", "surrogatepass")


def _philox(purpose: bytes, seed: int, stream: str, ids: Sequence[str]) -> Iterator[np.random.Philox]:
    for key in _keys(purpose, seed, stream, ids):
        yield np.random.Philox(key=key)


def _mix(words: npt.NDArray[np.uint64], scratch: npt.NDArray[np.uint64]) -> None:
    """SplitMix64's finaliser, in place; ``scratch`` is overwritten."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        np.right_shift(words, np.uint64(shift), out=scratch)
        words ^= scratch
        words *= multiplier
    np.right_shift(words, np.uint64(31), out=scratch)
    words ^= scratch


def _multiply_high(words: npt.NDArray[np.uint64], width: int) -> npt.NDArray[np.uint64]:
    """Upper 64 bits of the 128-bit products of ``words`` and ``width`` (at most 2**64), by 32-bit halves."""
    half = np.uint64(32)
    width_low, width_high = np.uint64(width & 0xFFFFFFFF), np.uint64(width >> 32)
    words_low, words_high = words & _LOW_HALF, words >> half
    carry = words_low * width_low >> half
    middle = words_high * width_low + carry
    carry = words_low * width_high + (middle & _LOW_HALF)
    upper: npt.NDArray[np.uint64] = words_high * width_high + (middle >> half) + (carry >> half)
    return upper


def _word(value: int) -> np.uint64:
    return np.uint64(value % 2**64)


def _integer(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ParameterError(f"rng: {name} must be an integer, not {value!r}") from None


def _whole(name: str, value: int) -> int:
    if (value := _integer(name, value)) < 0:
        raise ParameterError(f"rng: {name} must not be negative, but is {value}")
    return value


def _lengths(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(_whole("a length in shape", length) for length in shape)
