"""The oracle judges a ledger at rest from raw reads alone. It shares no code with the pipeline that it judges.

It imports the standard library, confluent_kafka, fastavro, httpx and psycopg, and no other module of Ledgerline:
import-linter and a test enforce this. Schemas come from the registry, by the id in each record's frame.
"""

from tools.chaos.oracle.judge import judge
from tools.chaos.oracle.model import Acknowledged, Fault, Leg, OracleError, Place, Planted, Scheduled, Verdict

__all__ = ["Acknowledged", "Fault", "Leg", "OracleError", "Place", "Planted", "Scheduled", "Verdict", "judge"]
