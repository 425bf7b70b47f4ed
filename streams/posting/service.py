"""The posting worker: the poster as a Faust agent."""

from functools import partial

from db.posting import ROLE, PostingStore
from runtime.faults import Fault, cause_no_fault
from runtime.schema_registry import SchemaRegistry
from streams.away import find_away
from streams.decode import IntentDecoder
from streams.fenced import AgentOptions, ReadAhead, run_agent
from streams.posting.poster import Poster
from streams.posting.published import read_last_published
from streams.posting.reading import IntentReader
from streams.posting.signing import Sign, sign_nothing
from streams.posting.source import TopicLook, describe_source, find_offsets_with_record


def serve(
    options: AgentOptions,
    *,
    dsn: str,
    registry: SchemaRegistry,
    journal_topic: str,
    sign: Sign = sign_nothing,
    fault: Fault = cause_no_fault,
) -> None:
    """Post the lanes of the one topic in `options` until told to stop; block, and wait until outages end.

    `journal_topic` is only read, and only when the worker takes lanes over.
    """
    (topic,) = options.topics
    store = PostingStore(dsn)
    decoder = IntentDecoder(registry)
    reader = IntentReader(decoder)
    ahead = ReadAhead(reader.prepare)
    poster = Poster(
        store,
        reader,
        partial(describe_source, options.kafka, topic),
        partial(find_offsets_with_record, options.kafka, topic),
        published=partial(read_last_published, options.kafka, journal_topic),
        ask_topic_id=TopicLook(options.kafka, topic).ask,
        read_ahead=ahead.read,
        sign=sign,
        fault=fault,
    )
    try:
        run_agent(poster, options, partial(find_away, options.kafka, dsn, ROLE, registry), ahead)
    finally:
        store.close()
        decoder.close()
