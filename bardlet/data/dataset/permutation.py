"""A pseudorandom order of any number of things that takes no memory: who is at which place."""

from __future__ import annotations


def permute(index: int, size: int, keys: tuple[int, ...]) -> int:
    """The place of `index` in a pseudorandom permutation of range(size).

    A Feistel network (Luby and Rackoff 1988) over the next even number of bits, walked on until
    it lands inside: any keys give a permutation, and it needs no memory. A round hashes half of
    them to 64 bits by the finaliser of splitmix64.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for key in keys:
            x = right ^ key
            x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
            x = (x ^ x >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
            left, right = right, left ^ ((x ^ x >> 31) & low)
        index = left << half | right
        if index < size:
            return index
