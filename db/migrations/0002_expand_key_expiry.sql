-- API keys that end by themselves. Releases before do not know the column, and go on taking such a key until it is revoked.
ALTER TABLE access.api_key ADD COLUMN expires_time timestamptz;
