"""Schedules: intents for later, or repeated. `recurrence` computes the times, `states` decides what happens."""
