"""The `atoll` command: a module for each subcommand, and what they share.

`main` puts them together; heavy imports wait inside the commands, so that `atoll --help` is quick.
"""
