"""The upgrade from the previous release to this one, and back."""
