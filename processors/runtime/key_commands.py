"""Commands for the keys of ENCRYPTION_KEYS."""

from __future__ import annotations

from processors.runtime.output import echo_json, opened, plain_fields, requester, say
from processors.settings import Settings
from processors.workflows import keys


def rotate(settings: Settings, *, as_json: bool) -> None:
    """Encrypt all that is stored with the newest key."""
    with opened(settings) as pool:
        rotated = keys.rotate(pool, settings, requester())
    if as_json:
        echo_json(plain_fields(rotated))
        return
    named = [name.replace("_", " ") for name in rotated.encrypted_anew]
    done = (
        f"Encrypted anew with the newest key: {', '.join(named)}." if named else "All is under the newest key already."
    )
    say(f"{done} The other keys may be taken out of ENCRYPTION_KEYS once every process runs with the new list.")
