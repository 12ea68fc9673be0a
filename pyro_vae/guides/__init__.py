"""`q`: guides, declared as factorisations."""

from .guide import Guide

__all__ = ["Guide"]
