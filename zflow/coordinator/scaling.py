"""How the partitions of a stage are spread over its replicas: with as few moves as can be."""

from collections import Counter
from collections.abc import Sequence


def balanced(owners: Sequence[int], staying: Sequence[int]) -> list[int]:
    """The owner of each partition, spread evenly over the slots that stay (indexes).

    A partition moves only if its owner leaves or has more than its share; at most one partition
    more at one slot than at another.
    """
    least, with_more = divmod(len(owners), len(staying))
    held = Counter(owner for owner in owners if owner in set(staying))
    # Who has most keeps the odd ones, so that these need not move.
    ranked = sorted(staying, key=lambda slot: (-held[slot], slot))
    room = {slot: least + (place < with_more) for place, slot in enumerate(ranked)}
    result = list(owners)
    homeless = []
    for partition, owner in enumerate(owners):
        if room.get(owner, 0) > 0:
            room[owner] -= 1
        else:
            homeless.append(partition)
    takers = [slot for slot in sorted(room) for _ in range(room[slot])]
    for partition, slot in zip(homeless, takers, strict=True):
        result[partition] = slot
    return result
