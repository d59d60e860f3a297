"""The batch runner: a folder of recordings in, their transcripts out, whatever breaks on the way.

`arguments` is what was asked for, `recordings` what is there, `state` what was reached, `client` how to talk to the
gateway, `runner` the way of one recording, `progress` and `summary` what people see.
"""
