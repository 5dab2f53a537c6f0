"""Who gets streams while they are rolled out: the same answer for the same user, in Python and in TypeScript."""

__all__ = ["BUCKETS", "bucket_of", "is_chosen"]

BUCKETS = 10_000

_MASK = 0xFFFFFFFF


def bucket_of(user: str, salt: str) -> int:
    """Return the user's bucket, 0 to 9,999: FNV-1a (32 bits) of `salt:user` in UTF-8, mixed by murmur3's `fmix32`.

    FNV alone leaves neighbouring ids in neighbouring buckets; the mixing spreads them. A new salt reshuffles everybody.
    """
    value = 0x811C9DC5
    for byte in f"{salt}:{user}".encode():
        value = (value ^ byte) * 0x01000193 & _MASK
    value = (value ^ value >> 16) * 0x85EBCA6B & _MASK
    value = (value ^ value >> 13) * 0xC2B2AE35 & _MASK
    return (value ^ value >> 16) % BUCKETS


def is_chosen(user: str, salt: str, percent: float) -> bool:
    """Whether a user is among the first `percent` of all; raising the percentage never takes anybody out."""
    return bucket_of(user, salt) < percent * (BUCKETS / 100)
