"""What Ledgerline is made of: a table with ages, a bill of materials, a scan for advisories, the digests of images."""
