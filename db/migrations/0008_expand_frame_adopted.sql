-- Writes the facts of a ledger that is older than they are. It locks no table that posting uses; openings of posting workers
-- of the release before, which do not name their lane's chain, wait for it.
SELECT ledger.adopt_frame('migration');
