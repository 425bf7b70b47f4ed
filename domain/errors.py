"""The tree of the errors that people are shown; a test fails if one is missing here.

LedgerlineError                               one sentence that says what is wrong and what to do
  db.access.AccessError                       a key that cannot be made or revoked
  db.books.BooksError                         a change of the books' frame that cannot be made
  db.frame.FrameError                         the books cannot be taken out of a database, or put into one
  db.logins.LoginError                        a login cannot be made as its file asks
  db.migrate.MigrationError                   the database was migrated by other files than these
  db.replay.TargetError                       the database to replay into cannot be used, or refuses a record
  runtime.secret_files.SettingsError          a LEDGERLINE_* variable cannot be used as it is set
  domain.errors.Outage                        what the process needs is away or not ready yet
    domain.errors.Unready                     the parts answer, and what is needed is not there yet
      streams.posting.published.JournalUnsettled  records that the ledger lacks stand in an open Kafka transaction
    db.connections.DatabaseError              Postgres cannot be reached or refuses the login
      db.connections.DatabaseBusy             Postgres is there and has too much to do
        db.connections.PoolBusy               no connection of the pool got free in time
        db.connections.StatementTooLong       Postgres ended a statement that took longer than it may
    runtime.kafka_positions.KafkaSilent           the broker did not answer an operator's question
    runtime.schemas.SchemaError               the registry lacks a schema, refuses one, or is away
    runtime.positions.PositionsUnknown      Kafka does not report the ends of the topics
    producers.events.EventsNotSent            Kafka did not take the events in time
    streams.posting.source.KafkaAway          the broker did not answer
    streams.proof.audit.witness.WitnessAway         a witness of checkpoints cannot be read or written now
    streams.proof.records.pages.SourceAway  the broker does not hand over what the journal says it has
  domain.proofs.ProofError                    there is no proof of this record, or not yet
    domain.proofs.ProofPending                the intent is not settled, or no checkpoint covers its record yet
    domain.proofs.ReceiptMissing              posting signed nothing over this record, and never will
  runtime.key_files.KeyFileError              the key file is missing, unreadable, or there already
  tools.bench.ledger.BenchFault               what was measured is not what should have been, or not in time
  tools.bench.table.DocumentError             the table cannot be written into a document, or is no table
  tools.chaos.load.load.LoadError             intents had no answer, or one that no fault explains
  cli.amounts.WrittenAmountError              an amount or a currency is not written as the ledger takes it
  cli.api_client.ApiError                     the API refused, or does not answer
  cli.commands.dlq.DeadLetterError            there is no such quarantined row, or no such place in their list
  cli.commands.parked.ParkedError             there is no parked work at that place
  cli.commands.offsets.OffsetsError           an agent cannot be made to stand where an operator wants it
  cli.commands.parked.ParkedError             there is no parked work at that place
  cli.commands.intents.IntentError            the command line does not say a whole intent
  cli.streams.ClosedOutputError      standard output is closed, so that the answer would be lost
  cli.demo.demo.DemoError                     the demo cannot go on
  cli.demo.example.ExampleError               the example ledger cannot be made
  cli.demo.rogues.RogueError                  Kafka did not take the demo's bytes
  cli.demo.watching.WaitError                 the pipeline did not get where it should in time
  runtime.compiled_modules.StaleModules       a source is not the one that was compiled
  runtime.kafka_positions.GroupBusy           a consumer group has members, and Kafka takes offsets from these alone
  cli.lanes.LanesError                        lanes cannot be added, or not now
  tools.load.evidence.NotReconciled           reconciliation is not where it should be, or not with the topic
  tools.load.k6.K6Error                         k6 could not do what the script says
  tools.load.k6.MissingK6                       k6 is not installed
  tools.load.ledger.LoadTarget                the ledger that is to be put under load is not named whole
  ops.embedded.errors.EmbeddedError           an embedded part cannot do what was asked
    ops.embedded.errors.CancelledError        a part gave up its start because the start of the whole stack was given up
  producers.deploy.TopicError                 topics could not be made, or stand otherwise than they must
  producers.importing.model.ImportingError    the import as a whole cannot be done
  producers.intents.PublishError              Kafka did not confirm an intent
    producers.intents.DeliveryError           Kafka is away, refused, or did not confirm in time
    producers.intents.QueueFullError          more intents wait for Kafka than the producer holds; nothing was sent
  producers.relay_core.RelayFenced            another relay with the same transactional id took over
  producers.relay_positions.RelayAhead        what was relayed is not what the ledger holds
  producers.retry.RetryError                  quarantined bytes could not be sent again
  streams.proof.audit.kept.KeptError          a file holds neither a checkpoint nor a proof
  streams.proof.audit.witness.WitnessError    the settings name a witness that cannot be one
  streams.worker.PartsError                   a setting names a part of the worker that does not exist
  streams.engine.TopicBegunAnew               a partition goes back behind what was read of it
  streams.posting.published.JournalAhead      the topic has records of a lane that the ledger lacks, or other ones
  streams.posting.source.TopicMismatch        the lanes were posted from another topic than is there now
  streams.proof.replay.lane_replay.ReplayRefused  the topic contradicts the ledger or itself
  streams.worker.PartsError                   LEDGERLINE_WORKER_PARTS names a part that does not exist
"""


class LedgerlineError(Exception):
    """An outage or a mistake of the user, in one sentence for people; the command line prints it and exits with 1."""


class Outage(LedgerlineError):
    """Something that the process needs is away or not ready yet. Waiting may help, so agents wait."""


class Unready(Outage):
    """The parts answer, but what is needed is not there yet. A restart would not help: a new process would wait too."""
