"""Postgres: sessions, transactions, locks and the disk below it."""

from ops.grafana.frame import Page, Variable
from ops.grafana.money import TITLE, money
from ops.grafana.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    Placed,
    Query,
    Says,
    falling,
    fixed_colours,
    graph,
    rising,
    stat,
)
from ops.grafana.promql import OURS, PACE

_POSTGRES = 'job="postgres"'
_CHOSEN = f'{_POSTGRES}, datname=~"$database"'
_NODE = 'job="node"'
_DISKS = f'{_NODE}, fstype!~"tmpfs|ramfs|overlay|squashfs|iso9660"'

DATABASE = Variable(
    "database", "Database", f'pg_stat_database_xact_commit{{{_POSTGRES}, datname!~"template.*|"}}', "datname"
)


def page() -> Page:
    """Return the dashboard."""
    return Page(
        name="postgres",
        title="Ledgerline: Postgres",
        text="The ledger's Postgres by postgres_exporter, what posting spends in it, and the machine by node_exporter.",
        rows={
            TITLE: money(),
            "Server": _server(),
            "Transactions": _transactions(),
            "Sessions and locks": _sessions(),
            "Disk and machine": _machine(),
        },
        variables=(DATABASE,),
    )


def _server() -> list[Placed]:
    used = f"sum(pg_stat_activity_count{{{_POSTGRES}}})"
    return [
        stat(
            "Answers",
            Query(f"min(pg_up{{{_POSTGRES}}})"),
            Says(
                "1 when the exporter can log in. Without Postgres intents are taken and wait; nothing is lost.",
                alerts=("LedgerlinePostgresDown",),
            ),
            unit="none",
            steps=falling(1),
        ),
        stat(
            "Connections used",
            Query(f"{used} / min(pg_settings_max_connections{{{_POSTGRES}}})"),
            Says(
                "The part of max_connections that is in use.",
                alerts=("LedgerlinePostgresConnectionsNearLimit",),
            ),
            unit="percentunit",
            steps=rising(0.6, 0.8),
        ),
        stat(
            "Found in memory",
            Query(
                f"sum(rate(pg_stat_database_blks_hit{{{_CHOSEN}}}[{PACE}]))"
                f" / (sum(rate(pg_stat_database_blks_hit{{{_CHOSEN}}}[{PACE}]))"
                f" + sum(rate(pg_stat_database_blks_read{{{_CHOSEN}}}[{PACE}])) > 0)"
                " or vector(1)"
            ),
            Says("The part of the blocks that were found in shared_buffers. Indexes that posting touches should fit."),
            unit="percentunit",
            steps=falling(0.9, 0.98),
            decimals=1,
        ),
        stat(
            "Deadlocks, last hour",
            Query(f"sum(increase(pg_stat_database_deadlocks{{{_CHOSEN}}}[1h]))"),
            Says("Posting locks in a fixed order, so there should be none."),
            unit="none",
            steps=rising(1, 10),
            decimals=0,
        ),
        stat(
            "Longest transaction",
            Query(f'max(pg_stat_activity_max_tx_duration{{{_CHOSEN}, state!~"idle|disabled"}})'),
            Says("A transaction that stays open holds its locks, and keeps vacuum from its work."),
            unit="s",
            steps=rising(60, 300),
            decimals=1,
        ),
        stat(
            "Databases",
            Query(f"sum(pg_database_size_bytes{{{_CHOSEN}}})"),
            Says("Bytes on disk of the chosen databases, indexes too."),
            unit="bytes",
            decimals=1,
        ),
    ]


def _transactions() -> list[Placed]:
    def of(what: str) -> str:
        return f"sum(rate(pg_stat_database_{what}{{{_CHOSEN}}}[{PACE}]))"

    stage = "ledgerline_posting_stage_seconds"
    in_postgres = f'{{{OURS}, stage=~"look_up|lock|write|commit"}}'
    return [
        graph(
            "Transactions",
            [Query(of("xact_commit"), "committed"), Query(of("xact_rollback"), "rolled back")],
            Says("Transactions a second. Posting's are few and large: one for each batch."),
            unit="cps",
            width=6,
            overrides=fixed_colours({"rolled back": ORANGE}),
        ),
        graph(
            "Rows",
            [
                Query(of("tup_inserted"), "inserted"),
                Query(of("tup_updated"), "updated"),
                Query(of("tup_deleted"), "deleted"),
                Query(of("tup_fetched"), "fetched by index"),
            ],
            Says("Rows a second. Journal and entries are only ever inserted; balances and lanes are updated."),
            unit="rowsps",
            width=6,
        ),
        graph(
            "What posting waits for",
            Query(
                f"sum by (stage) (rate({stage}_sum{in_postgres}[{PACE}]))"
                f" / (sum by (stage) (rate({stage}_count{in_postgres}[{PACE}])) > 0)"
                f" or sum by (stage) (rate({stage}_count{in_postgres}[{PACE}]))",
                "{{stage}}",
            ),
            Says("Mean time of a batch in each stage that Postgres works for. A slow commit is a slow disk."),
            unit="s",
            stacked=True,
            width=6,
        ),
        graph(
            "Temporary files",
            Query(of("temp_bytes"), "written"),
            Says("Bytes a second that sorts and joins wrote to disk, as they did not fit in work_mem."),
            unit="Bps",
            flat_at_zero=True,
            width=6,
        ),
    ]


def _sessions() -> list[Placed]:
    return [
        graph(
            "Sessions, by state",
            Query(f"sum by (state) (pg_stat_activity_count{{{_CHOSEN}}})", "{{state}}"),
            Says("`idle in transaction` should be short: it holds locks and does nothing."),
            unit="none",
            stacked=True,
            overrides=fixed_colours(
                {"active": GREEN, "idle": BLUE, "idle in transaction": ORANGE, "idle in transaction (aborted)": RED}
            ),
        ),
        graph(
            "Locks, by mode",
            Query(f"sum by (mode) (pg_locks_count{{{_CHOSEN}}})", "{{mode}}"),
            Says("Locks held or waited for. `accessexclusivelock` outside a migration stops posting."),
            unit="none",
        ),
        graph(
            "Size, by database",
            Query(f"pg_database_size_bytes{{{_CHOSEN}}}", "{{datname}}"),
            Says("535 bytes for each posted transfer, indexes too, as measured in docs/performance.md."),
            unit="bytes",
        ),
    ]


def _machine() -> list[Placed]:
    return [
        graph(
            "Disk left",
            Query(
                "min by (instance, mountpoint) "
                f"(node_filesystem_avail_bytes{{{_DISKS}}} / node_filesystem_size_bytes{{{_DISKS}}})",
                "{{mountpoint}}",
            ),
            Says(
                "The part of each file system that is free. The journal only grows: see ops/runbooks.",
                alerts=("LedgerlineDiskNearlyFull", "LedgerlineDiskFillsSoon"),
            ),
            unit="percentunit",
            maximum=1,
            width=6,
            steps=((None, RED), (0.05, ORANGE), (0.15, GREEN)),
        ),
        graph(
            "Disk busy",
            Query(f"max by (device) (rate(node_disk_io_time_seconds_total{{{_NODE}}}[{PACE}]))", "{{device}}"),
            Says("The part of the time that each disk had something to do."),
            unit="percentunit",
            maximum=1,
            width=6,
        ),
        graph(
            "Processor busy",
            Query(
                f'1 - avg by (instance) (rate(node_cpu_seconds_total{{{_NODE}, mode="idle"}}[{PACE}]))', "{{instance}}"
            ),
            Says("The part of all cores' time that was used."),
            unit="percentunit",
            maximum=1,
            width=6,
        ),
        graph(
            "Memory left",
            Query(f"node_memory_MemAvailable_bytes{{{_NODE}}}", "{{instance}}"),
            Says("Memory that programs can still have, without swapping."),
            unit="bytes",
            width=6,
        ),
    ]
