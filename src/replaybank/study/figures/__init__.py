"""Pictures of the ideas behind replay: `numbers` computes, `pictures` draws, `figures` is the command."""

from replaybank.study.figures.command import figures

__all__ = ["figures"]
