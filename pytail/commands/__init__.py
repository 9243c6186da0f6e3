"""The command line: one module for each command of ``pytail``.

A command is a function under ``@click.command()`` and ``@configured``. The decorator passes the
`Configuration` as the first argument. The return value is the exit code; None means 0. A command
raises SettingError or click.ClickException for a mistake of the operator. The group in
`pytail.commands.main` lists all commands.
"""
