"""Which split a problem is in, so that splits never overlap."""

import hashlib

# Half of the problems are for the tiny base.
SPLITS = ("base", "base", "train", "test")


def split_of(text: str, splits: tuple[str, ...] = SPLITS) -> str:
    """The one split that a problem may be in, by a hash of its text.

    Args:
        splits: each as often as its share says.
    """
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return splits[digest[0] % len(splits)]
