"""The way from the release before to this one, and back."""
