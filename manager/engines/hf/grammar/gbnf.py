"""llama.cpp's grammars (GBNF) as llguidance's Lark. What it can't say is a ValueError in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llguidance.gbnf_to_lark import (
    AlternativeNode,
    ASTNode,
    GrammarParser,
    RepetitionNode,
    RuleNode,
    RuleRefNode,
    SequenceNode,
    resolve,
)

# The converter's time grows with rules times size; these keep the worst grammar under some seconds.
_LONGEST = 64 * 1024
_MOST_RULES = 1000

# What a grammar is made of; signs between these stay as they are.
_PIECE = re.compile(
    r"""
      (?P<comment> \#[^\r\n]* )
    | (?P<text> "(?:\\.|[^"\\])*" )
    | (?P<class> \[(?:\\.|[^\]\\])*\] )
    | (?P<token> !?<[^<>\s]+> )
    | (?P<name> [A-Za-z0-9_-]+ )
    | (?P<dot> \. )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_ANY = "[\\x00-\U0010ffff]"
# Two of these in a row are an operator in a class of the regular expressions that Lark has.
_DOUBLED = {"&": "\\x26", "~": "\\x7E"}
# What can only go on in one way would be followed at once to its end, however far that is.
_OPTIONS = '%llguidance {"no_forcing": true}'


def lark_of(grammar: str) -> str:
    """The same grammar for llguidance. ValueError with the reason where it is wrong, too large or refers to tokens."""
    if len(grammar) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST} characters")
    if grammar.count("::=") > _MOST_RULES:
        raise ValueError(f"it has more than {_MOST_RULES} rules")
    if "::=" not in grammar:
        raise ValueError("it has no rule; a rule is written name ::= …")
    plain = _PIECE.sub(_plain, grammar)
    try:
        rules = GrammarParser().parse(plain)
        _prune(rules)
        resolve(rules)
        return "\n".join((_OPTIONS, *map(str, sorted(rules.values(), key=lambda rule: rule.order)))) + "\n"
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # the converter raises bare Exception for unknown rules
        raise ValueError(_first_line(str(error))) from None


class _Group(ASTNode):
    """In brackets, also where the converter sees no need for them: Lark has no operator behind an operator."""

    def __init__(self, node: ASTNode) -> None:
        self._node = node

    def children(self) -> list[ASTNode]:
        return [self._node]

    def __str__(self) -> str:
        return f"({self._node})"


def _prune(rules: dict[str, RuleNode]) -> None:
    """Drop what never comes to an end, which a model would be caught in. ValueError where nothing is left."""
    left = list(rules.values())
    ending = {name for name in _referred(left) if name not in rules}  # resolve() tells of these
    known = -1
    while known < len(ending):
        known = len(ending)
        left.reverse()  # rules mostly build on those before them, or on those behind
        for rule in left:
            if _ends(rule.alternatives, ending):
                ending.add(rule.name)
        left = [rule for rule in left if rule.name not in ending]
    if "root" in rules and not _ends(rules["root"].alternatives, ending):
        raise ValueError("nothing fits it, as its rules never come to an end")
    for rule in rules.values():
        rule.alternatives = _mended(rule.alternatives, ending)
    for name in rules.keys() - ending:
        del rules[name]


def _ends(node: ASTNode, ending: set[str]) -> bool:
    match node:
        case RuleRefNode():
            return node.name in ending
        case RepetitionNode():
            return node.min_times == 0 or _ends(node.node, ending)
        case AlternativeNode():
            return any(_ends(each, ending) for each in node.alternatives)
    return all(_ends(each, ending) for each in node.children())


def _mended(node: ASTNode, ending: set[str]) -> ASTNode:
    """A part that ends, without the ways in it that do not."""
    match node:
        case RepetitionNode() if not _ends(node.node, ending):
            return SequenceNode([])
        case RepetitionNode():
            inner = _mended(node.node, ending).simplify()
            return RepetitionNode(
                _Group(inner) if isinstance(inner, RepetitionNode) else inner, node.min_times, node.max_times
            )
        case AlternativeNode():
            return AlternativeNode([_mended(each, ending) for each in node.alternatives if _ends(each, ending)])
        case SequenceNode():
            return SequenceNode([_mended(each, ending) for each in node.nodes])
    return node


def _referred(nodes: Iterable[ASTNode]) -> Iterable[str]:
    for node in nodes:
        if isinstance(node, RuleRefNode):
            yield node.name
        yield from _referred(node.children())


def _plain(piece: re.Match[str]) -> str:
    """A piece as the converter reads it right: it mistakes \\u escapes, and its dot stops at a new line."""
    match piece.lastgroup:
        case "comment":
            return ""
        case "dot":
            return _ANY
        case "token":
            raise ValueError(f"references to tokens ({piece[0][:40]}) are not supported; write their text in quotes")
        case "name":
            return "start-of-theirs" if piece[0] == "start" else piece[0]  # the converter gives root this name
        case "class":
            text = _ESCAPE.sub(_character, piece[0])
            return "".join(_DOUBLED.get(character, character) for character in text)
        case _:
            return _ESCAPE.sub(_character, piece[0])


def _character(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2] or escape[3]
    if code is None:
        return "\\x2D" if escape[4] == "-" else escape[0]
    number = int(code, 16)
    if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
        raise ValueError(f"{escape[0]} is no character")
    if number < 0x80:
        return f"\\x{number:02X}"
    return chr(number)


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0][:300]
