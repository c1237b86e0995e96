"""The ledger and the environments; triggers that refuse any change of an entry."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the two tables and the triggers."""
    op.create_table(
        "ledger",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("at", sa.Text, nullable=False),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("run", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("from_state", sa.Text),
        sa.Column("trigger", sa.Text),
        sa.Column("to_state", sa.Text),
        sa.Column("target", sa.Text),
        sa.Column("effect", sa.Text),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("leaf_hash", sa.Text, nullable=False),
    )
    op.create_index("ledger_environment_seq", "ledger", ["environment", "seq"])
    op.create_index("ledger_run_seq", "ledger", ["run", "seq"])
    op.create_index("ledger_generation_seq", "ledger", ["environment", "generation", "seq"])
    op.create_index("ledger_at", "ledger", ["at"])
    op.create_table(
        "environments",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("lease_token", sa.Integer, nullable=False),
        sa.Column("lease_holder", sa.Text),
        sa.Column("lease_process", sa.Text),
        sa.Column("lease_since", sa.Text),
        sa.Column("lease_expires", sa.Text),
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER ledger_no_{verb.lower()} BEFORE {verb} ON ledger "
                "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )
        # REPLACE would delete the old row without firing a delete trigger.
        op.execute(
            "CREATE TRIGGER ledger_no_replace BEFORE INSERT ON ledger "
            "WHEN EXISTS (SELECT 1 FROM ledger WHERE seq = NEW.seq) "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        )
    else:
        op.execute(
            "CREATE FUNCTION ledger_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER ledger_no_change BEFORE UPDATE OR DELETE ON ledger "
            "FOR EACH ROW EXECUTE FUNCTION ledger_append_only()"
        )
        op.execute(
            "CREATE TRIGGER ledger_no_truncate BEFORE TRUNCATE ON ledger "
            "FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only()"
        )
        # Otherwise one setting of a session (session_replication_role) would switch them off.
        for trigger in ("ledger_no_change", "ledger_no_truncate"):
            op.execute(f"ALTER TABLE ledger ENABLE ALWAYS TRIGGER {trigger}")
