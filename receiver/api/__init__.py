"""The JSON API for programs: sees by the same reads and acts by the same actions as console and command line.

`app` puts it together, `door` decides who comes in, `problems` says what went wrong, `shapes` are the words in which
programs ask; the other modules are the resources.
"""
