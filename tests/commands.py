"""The command, called in this process: what the tests of commands import."""

from pyro_vae import cli
from pyro_vae.methods.arguments import parse_fit
from pyro_vae.methods.parser import parse_command

COMMANDS, main = cli.COMMANDS, cli.main


def parsed_fit(arguments):
    """`(configuration, other options, ...)` of `pyro-vae fit ARGUMENTS`."""
    return parse_fit(arguments, cli.train_and_report)


def parsed(arguments):
    """`(function, options)` of `pyro-vae ARGUMENTS`."""
    return parse_command(arguments, COMMANDS, cli.__doc__, cli.__version__)
