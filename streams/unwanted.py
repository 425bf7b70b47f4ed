"""Drop the records that an agent does not want, before anything is made of them.

An agent may want one record in a thousand of a topic. aiokafka makes an object with eleven fields for each record,
which costs more than all else that happens to it. So the unwanted records end inside aiokafka's iterator.

This module overrides internals of aiokafka 0.14.0.
"""

from collections.abc import Callable
from typing import Any, Final

from aiokafka.consumer.fetcher import FetchResult

from streams.batches import Headers

_MARK: Final = "_ledgerline_drops_unwanted"


def drop_unwanted(fetcher: Any, wants: Callable[[Headers], bool]) -> None:
    """Let this Fetcher of aiokafka give out wanted records only; its positions move past the others too."""
    process = fetcher._proc_fetch_request

    async def process_and_drop(*arguments: Any) -> bool:
        needs_wakeup: bool = await process(*arguments)
        # Nothing can read an answer before this loop: from the answer's arrival to here nobody yields.
        for result in fetcher._records.values():
            if type(result) is FetchResult and result._partition_records is not None:
                _drop_from(result._partition_records, wants)
        return needs_wakeup

    fetcher._proc_fetch_request = process_and_drop


def _drop_from(records: Any, wants: Callable[[Headers], bool]) -> None:
    """Let a PartitionRecords give out wanted records only."""
    if hasattr(records, _MARK):
        return
    setattr(records, _MARK, True)
    make = records._consumer_record

    def make_if_wanted(tp: Any, record: Any) -> Any:
        return make(tp, record) if wants(record.headers) else None

    records._consumer_record = make_if_wanted
    # The iterator below this filter moves the position past each record, wanted or not.
    records._records_iterator = filter(None, records._records_iterator)
