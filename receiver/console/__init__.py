"""The operator console, mounted at /console.

A page reads by the functions that command line and API read by, and acts by theirs. Its frame (layout, lists,
messages, the protection against forged forms) is starlette-admin's; pages of one thing, and every form that changes
something, are plain HTML of our own, so that they work without JavaScript.
"""
