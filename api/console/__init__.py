"""The operators' console: one live page, and the feed of events behind it. docs/CONSOLE.md documents it."""
