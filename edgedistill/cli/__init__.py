"""The commands: parse, call one function, print. One file a command; only this room knows Click and exit codes."""
