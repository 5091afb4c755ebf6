"""How data sets are read, beside their names and columns: flags that few runs need."""

from typing import NamedTuple


class Reading(NamedTuple):
    """The flags by which a Hub id, a folder or a task is read otherwise than by default."""

    dataset_config: str | None = None
    dataset_train_split: str | None = None
    dataset_test_split: str | None = None
    partial_credit: bool = False


DEFAULT_READING = Reading()
