"""Journal records as the provers read them: decoding, canonical form, hashes."""
