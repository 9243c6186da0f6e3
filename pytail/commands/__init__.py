"""What ``pytail`` can do beside serving, one module each.

A command is a function under ``@click.command()`` and ``@configured``, which hands it the
`Configuration` before its own options; what it returns is the exit code (None: 0). It stands in the
list of `pytail.cli`, and raises SettingError or click.ClickException for what the operator got
wrong.
"""
