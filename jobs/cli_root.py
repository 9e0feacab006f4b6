"""The root of the `mulm` command: its verbs by what they are for, and what a shell is told.

Used by `jobs.cli`. Invariant: `mulm --help` shows every verb once.
"""

from __future__ import annotations

from collections.abc import Mapping

import click

from jobs.cli_verbs import Verbs

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "The application": ("up", "down", "join", "leave", "demo", "env", "cluster"),
    "From text to a model": ("data", "tokenizer", "train", "eval", "model", "compress", "runs"),
    "Answers over HTTP": ("serve", "ps", "chat", "generate", "feedback", "key", "usage"),
    "Upkeep": ("doctor", "config", "backup", "restore", "gc", "completion"),
}


_SENTENCE = 200
"""Characters: more than the first sentence of any verb's help."""


class Root(Verbs):
    """Shows its verbs in sections."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A list for each section; a verb without one comes last."""
        named = {verb for verbs in SECTIONS.values() for verb in verbs}
        others = tuple(verb for verb in self.list_commands(ctx) if verb not in named)
        for title, verbs in {**SECTIONS, "Others": others}.items():
            commands = [(verb, self.get_command(ctx, verb)) for verb in verbs]
            rows = [
                (verb, one.get_short_help_str(_SENTENCE))
                for verb, one in commands
                if one is not None
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
