"""Third-party components: a table with their ages, a bill of materials, a scan for advisories, digests of images."""
