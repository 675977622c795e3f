"""A module that needs what is not there."""

import antigravity_2  # type: ignore[import-not-found]  # noqa: F401
