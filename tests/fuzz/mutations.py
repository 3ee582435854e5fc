"""Damage to the bytes of a file: what disks, networks and interrupted copies do to it."""

import random

NEAR = 512
"""Bytes at either end of a file, where formats keep what leads to everything else: half of the damage goes there."""
LONGEST = 64
"""Bytes of a run that is deleted, doubled, inserted or set to zero."""


def mutate(content, other, seed):
    """Damage a file.

    Args:
        content: its bytes, at least two.
        other: the bytes of another file of its kind.
        seed: the same one damages it in the same way.

    Returns:
        The bytes, which are not the same, and a description.
    """
    generator = random.Random(seed)
    for _ in range(100):
        kind = generator.choice(KINDS)
        damaged = bytes(kind(content, other, generator))
        if damaged != content:
            return damaged, kind.__name__.removeprefix("_").replace("_", " ")
    raise AssertionError(f"{seed}: nothing changes a file of {len(content)} bytes")


def _place(content, generator):
    """Where damage begins: anywhere, or near an end."""
    if generator.random() < 0.5:
        return generator.randrange(len(content))
    near = generator.randrange(min(NEAR, len(content)))
    return generator.choice([near, len(content) - 1 - near])


def _run(content, generator):
    first = _place(content, generator)
    return first, min(len(content), first + generator.randint(1, LONGEST))


def _truncated(content, other, generator):
    return content[: _place(content, generator)]


def _bits_flipped(content, other, generator):
    damaged = bytearray(content)
    for _ in range(generator.randint(1, 8)):
        damaged[_place(content, generator)] ^= 1 << generator.randrange(8)
    return damaged


def _one_bit_flipped(content, other, generator):
    damaged = bytearray(content)
    damaged[_place(content, generator)] ^= 1 << generator.randrange(8)
    return damaged


def _zeros_in_a_run(content, other, generator):
    first, last = _run(content, generator)
    return content[:first] + bytes(last - first) + content[last:]


def _run_deleted(content, other, generator):
    first, last = _run(content, generator)
    return content[:first] + content[last:]


def _run_doubled(content, other, generator):
    first, last = _run(content, generator)
    return content[:last] + content[first:]


def _bytes_inserted(content, other, generator):
    first, last = _run(content, generator)
    return content[:first] + generator.randbytes(last - first) + content[first:]


def _tail_of_another_file(content, other, generator):
    return content[: _place(content, generator)] + other[_place(other, generator) :]


KINDS = (
    _truncated,
    _bits_flipped,
    _one_bit_flipped,
    _zeros_in_a_run,
    _run_deleted,
    _run_doubled,
    _bytes_inserted,
    _tail_of_another_file,
)
