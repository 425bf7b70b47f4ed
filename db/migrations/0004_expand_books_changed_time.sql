-- When the books' frame changed last, by which reconciliation knows whether a rejection can be judged by the books of
-- today. Releases before do not know the column. What was rejected before this migration is not judged by the books.
ALTER TABLE ledger.books_version ADD COLUMN changed_time timestamptz NOT NULL DEFAULT now();

CREATE OR REPLACE FUNCTION ledger.books_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
BEGIN
    UPDATE ledger.books_version SET version = version + 1, changed_time = now();
    RETURN NULL;
END
$$;
