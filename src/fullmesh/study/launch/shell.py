"""Shell scripts that launch a training run, read without a shell: variables, arrays, line continuations, defaults.

Nothing is executed. ``$(command)`` has no value here; what depends on one is left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from fullmesh.errors import LaunchError, shown
from fullmesh.study.launch.taken import Settings

# limits far above any launch script
MOST_WORDS = 100_000
_LONGEST_WORD = 100_000
_DEEPEST = 20
# what an unknown value becomes: no option or number can be mistaken for it
UNKNOWN = "\0"
_REDIRECTION = re.compile(r"[0-9]?(?:>>?|<{1,3})(&[0-9-])?[ \t]*")
_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,200}"
_KEYWORDS = frozenset(
    ("if", "then", "else", "elif", "fi", "for", "while", "do", "done", "case", "esac", "{", "}", "!", "time")
)
_SKIPPED = frozenset(
    ("export", "declare", "local", "readonly", "typeset", "-x", "-a", "-r", "exec", "nohup", "sudo", "env")
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command of a script.

    Parameters
    ----------
    words : tuple of str
        With variables put in; what is unknown is ``UNKNOWN``.
    """

    words: tuple[str, ...]


@dataclasses.dataclass(slots=True, kw_only=True)
class _Script:
    text: str
    where: str
    variables: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    num_words: int = 0

    def fail(self, what: str) -> LaunchError:
        return LaunchError(what, where=self.where, expected="a shell script or a command line")


def read_script(text: str, where: str) -> list[Command]:
    """The commands of a script, in order.

    Raises
    ------
    LaunchError
        Quotes or brackets do not close, or the script is larger than any.
    """
    script = _Script(text=text.replace("\\\r\n", " ").replace("\\\n", " ").replace("\r", ""), where=where)
    commands = []
    branches: list[_Branch] = []
    for statement in _statements(script):
        raw = _after_keyword(script, statement, branches)
        words = _assigned(script, raw) if all(b.active for b in branches) else []
        if words:
            commands.append(Command(words=tuple(words)))
    return commands


@dataclasses.dataclass(slots=True, kw_only=True)
class _Branch:
    """An ``if`` that is open: what its test says (None: unknown), and whether this branch of it is carried out."""

    holds: bool | None
    testing: bool = True
    taken: bool = False
    active: bool = True


def _after_keyword(script: _Script, raw: list[str], branches: list[_Branch]) -> list[str]:
    """Follow ``if``, ``elif``, ``else`` and ``fi``; what of a statement is left to carry out.

    A test that only a shell could carry out counts as true: the first branch is that of the usual case.
    """
    first, rest = raw[0], raw[1:]
    if first == "if":
        branches.append(_Branch(holds=_test(script, rest)))
        return []
    if not branches:
        return raw
    branch = branches[-1]
    if first == "elif":
        branch.testing, branch.active = True, True
        branch.holds = _test(script, rest)
        return []
    if first in ("then", "else"):
        branch.active = not branch.taken and (first == "else" or branch.holds is not False)
        branch.testing, branch.taken = False, branch.taken or branch.active
        return _after_keyword(script, rest, branches) if rest else []
    if first == "fi":
        branches.pop()
        return []
    if branch.testing:
        # a second test beside the first
        other = _test(script, raw)
        branch.holds = None if None in (branch.holds, other) else branch.holds or other
        return []
    return raw


def _test(script: _Script, raw: list[str]) -> bool | None:
    """``[ a = b ]`` and its like; None where it asks for what only a shell knows."""
    words = [w for r in raw if r not in ("[", "]", "[[", "]]", "test") for w in _expanded(script, r)]
    negated = words[:1] == ["!"]
    words = words[negated:]
    found: bool | None = None
    if any(UNKNOWN in w for w in words):
        found = None
    elif len(words) == 2 and words[0] in ("-n", "-z"):
        found = bool(words[1]) == (words[0] == "-n")
    elif len(words) == 3 and words[1] in ("=", "==", "!="):
        found = (words[0] == words[2]) == (words[1] != "!=")
    elif len(words) == 3 and all(re.fullmatch("[0-9]{1,12}", w) for w in (words[0], words[2])):
        a, b = int(words[0]), int(words[2])
        known = {"-eq": a == b, "-ne": a != b, "-gt": a > b, "-lt": a < b, "-ge": a >= b, "-le": a <= b}
        found = known.get(words[1])
    return found if found is None or not negated else not found


def _statements(script: _Script) -> list[list[str]]:
    """Raw words (quotes kept) by statement; an array's words stay one raw word."""
    out: list[list[str]] = []
    words: list[str] = []
    text, at, end = script.text, 0, len(script.text)

    def close() -> None:
        nonlocal words
        if words:
            out.append(words)
        words = []

    while at < end:
        c = text[at]
        if c in " \t":
            at += 1
        elif c in "\n;|&":
            close()
            at += 1
        elif c == "#":
            stop = text.find("\n", at)
            at = end if stop < 0 else stop
        elif c in "()":
            close()
            at += 1
        elif redirection := _REDIRECTION.match(text, at):
            # where output goes, and the file or number behind
            at = redirection.end()
            if not redirection[1] and at < end and text[at] not in "\n;|&()":
                at = _word_end(script, at)
        else:
            stop = _word_end(script, at)
            words.append(text[at:stop])
            script.num_words += 1
            if script.num_words > MOST_WORDS:
                raise script.fail(f"the script has more than {MOST_WORDS:,} words")
            at = stop
    close()
    return out


def _word_end(script: _Script, at: int) -> int:
    text, end, start = script.text, len(script.text), at
    while at < end:
        c = text[at]
        if c == "\\":
            at += 2
        elif c in "\"'":
            at = _quote_end(script, at)
        elif c == "$" and text[at + 1 : at + 2] in ("(", "{"):
            at = _bracket_end(script, at + 1)
        elif c == "`":
            stop = text.find("`", at + 1)
            if stop < 0:
                raise script.fail("a back quote does not close")
            at = stop + 1
        elif c == "(" and at > start and text[at - 1] == "=":
            at = _bracket_end(script, at)
        elif c in " \t\n;|&()" or (c in "<>" and at > start):
            break
        else:
            at += 1
    return max(min(at, end), start + 1)


def _quote_end(script: _Script, at: int) -> int:
    text, sign = script.text, script.text[at]
    at += 1
    while at < len(text):
        if text[at] == "\\" and sign == '"':
            at += 2
        elif text[at] == sign:
            return at + 1
        else:
            at += 1
    raise script.fail("a quote does not close")


def _bracket_end(script: _Script, at: int) -> int:
    text = script.text
    pairs = {"(": ")", "{": "}"}
    stack: list[str] = []
    while at < len(text):
        c = text[at]
        if c == "\\":
            at += 1
        elif c in "\"'":
            at = _quote_end(script, at) - 1
        elif c == "#" and stack == [")"] and text[at - 1] in " \t\n":
            # a comment between the words of an array
            stop = text.find("\n", at)
            at = len(text) if stop < 0 else stop
        elif c in pairs:
            stack.append(pairs[c])
        elif stack and c == stack[-1]:
            stack.pop()
            if not stack:
                return at + 1
        if len(stack) > _DEEPEST:
            raise script.fail("brackets are nested too deep")
        at += 1
    raise script.fail("a bracket does not close")


def _assigned(script: _Script, raw: list[str]) -> list[str]:
    """Carry out the assignments in front of a command; its words, expanded."""
    at = 0
    while at < len(raw) and (raw[at] in _KEYWORDS or raw[at] in _SKIPPED):
        at += 1
    while at < len(raw):
        found = re.match(rf"({_NAME})(\+?)=(.*)", raw[at], re.DOTALL)
        if found is None:
            break
        name, more, value = found.groups()
        if value.startswith("("):
            inner = _Script(text=value[1:-1], where=script.where, variables=script.variables)
            words = [w for s in _statements(inner) for r in s for w in _expanded(script, r)]
        else:
            words = [" ".join(_expanded(script, value))] if value else [""]
        if more:
            old = script.variables.get(name, [])
            words = old + words if value.startswith("(") else [*old[:-1], (old[-1] if old else "") + words[0]]
        script.variables[name] = words
        at += 1
    return [w for r in raw[at:] for w in _expanded(script, r)]


def _expanded(script: _Script, raw: str) -> list[str]:
    """A raw word with variables put in; without quotes it falls apart at blanks."""
    out: list[str] = [""]
    total = 0

    def put(text: str, *, quoted: bool) -> None:
        nonlocal total
        total += len(text)
        if total > _LONGEST_WORD:
            raise script.fail("a word of the script is too long")
        if quoted:
            out[-1] += text
            return
        first, *rest = re.split(r"\s+", text)
        out[-1] += first
        out.extend(rest)

    at, end, had_quotes = 0, len(raw), False
    quote = ""
    while at < end:
        c = raw[at]
        if quote == "'":
            if c == "'":
                quote = ""
            else:
                put(c, quoted=True)
            at += 1
        elif c in "\"'" and (not quote or quote == c):
            quote = "" if quote else c
            had_quotes = True
            at += 1
        elif c == "\\" and at + 1 < end:
            put(raw[at + 1], quoted=True)
            at += 2
        elif c == "$":
            values, whole, at = _variable(script, raw, at)
            if whole and values is not None:
                # every element of an array is a word of its own
                for i, value in enumerate(values):
                    if i:
                        out.append("")
                    put(value, quoted=bool(quote))
            else:
                put(UNKNOWN if values is None else " ".join(values), quoted=bool(quote))
        elif c == "`":
            stop = raw.find("`", at + 1)
            put(UNKNOWN, quoted=True)
            at = end if stop < 0 else stop + 1
        else:
            put(c, quoted=True)
            at += 1
    return [w for w in out if w] if not had_quotes else [w for w in out if w] or [""]


def _variable(script: _Script, raw: str, at: int) -> tuple[list[str] | None, bool, int]:
    """Value behind a ``$`` (None where unknown), whether all elements of an array are meant, and where to go on."""
    rest = raw[at + 1 :]
    if rest.startswith("(("):
        stop = raw.find("))", at)
        if stop < 0:
            return None, False, len(raw)
        return _sum(script, raw[at + 3 : stop]), False, stop + 2
    if rest.startswith(("(", "{")):
        inner = _Script(text=raw, where=script.where)
        stop = _bracket_end(inner, at + 1)
        body = raw[at + 2 : stop - 1]
        if rest[0] == "(":
            return None, False, stop
        return (*_braced(script, body), stop)
    name = re.match(_NAME, rest)
    if name is None:
        # $1, $@, $?, or a lone sign
        special = re.match(r"[0-9@*#?$!-]", rest)
        return (None, False, at + 2) if special else (["$"], False, at + 1)
    value = script.variables.get(name[0])
    return None if value is None else value[:1] or [""], False, at + 1 + name.end()


def _braced(script: _Script, body: str) -> tuple[list[str] | None, bool]:
    """``NAME``, ``NAME[@]``, ``NAME:-default`` and their like."""
    found = re.match(rf"({_NAME}|[0-9])(\[[@*]\])?(.*)", body, re.DOTALL)
    if found is None:
        return None, False
    name, every, more = found.groups()
    value = script.variables.get(name)
    default = re.match(r":?[-=](.*)", more, re.DOTALL)
    if default is not None and (value is None or value == [""]):
        if body.count("${") > _DEEPEST:
            raise script.fail("brackets are nested too deep")
        return [" ".join(_expanded(script, default[1]))], False
    if more and default is None:
        return None, False
    if value is None:
        return None, bool(every)
    if every == "[*]":
        return [" ".join(value)], False
    return (value, True) if every else (value[:1] or [""], False)


def _sum(script: _Script, text: str) -> list[str] | None:
    """Whole-number arithmetic; None where something in it is unknown."""

    def known(match: re.Match[str]) -> str:
        value = script.variables.get(match[1] or match[2])
        return value[0] if value and re.fullmatch(r"[0-9]{1,12}", value[0]) else "x"

    plain = re.sub(rf"\$?\{{({_NAME})\}}|\$?({_NAME})", known, text.replace("$", ""))
    if not re.fullmatch(r"[0-9()+\-*/%\s]{1,200}", plain):
        return None
    value = _arithmetic(re.findall(r"[0-9]{1,12}|[()+\-*/%]", plain))
    return None if value is None else [str(value)]


def _arithmetic(tokens: list[str]) -> int | None:
    """Sums and products of whole numbers, with brackets; None where it is none of that."""
    values: list[int] = []
    signs: list[str] = []
    rank = {"+": 1, "-": 1, "*": 2, "/": 2, "%": 2}

    def apply() -> bool:
        if len(values) < 2:
            return False
        b, a = values.pop(), values.pop()
        sign = signs.pop()
        if sign in "/%" and b == 0:
            return False
        values.append(
            {"+": a + b, "-": a - b, "*": a * b}.get(sign, a // b if sign == "/" else a % b if b else 0)
        )
        return abs(values[-1]) < 10**15

    for token in tokens:
        if token.isdigit():
            values.append(int(token))
        elif token == "(":
            signs.append(token)
        elif token == ")":
            while signs and signs[-1] != "(":
                if not apply():
                    return None
            if not signs:
                return None
            signs.pop()
        else:
            while signs and signs[-1] != "(" and rank[signs[-1]] >= rank[token]:
                if not apply():
                    return None
            signs.append(token)
    while signs:
        if signs[-1] == "(" or not apply():
            return None
    return values[0] if len(values) == 1 else None


# --- options -----------------------------------------------------------------------------------------------------


def options_of(words: tuple[str, ...], where: str) -> Settings:
    """Options of a command without their dashes, as :func:`fullmesh.study.launch.megatron.option_words` writes them.

    Underscores count as dashes. An option without a value is True, one with several has a list; one whose value only
    a shell would know is left out.

    Raises
    ------
    LaunchError
        An option stands twice with different values.
    """
    given: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, equal, text = word[2:].partition("=")
            given.append((name.replace("_", "-"), [text] if equal else []))
        elif given:
            given[-1][1].append(word)
    out: Settings = {}
    for name, values in given:
        known = [v for v in values if UNKNOWN not in v]
        if not name or (values and not known):
            continue
        value: object = True if not known else known[0] if len(known) == 1 else known
        if name in out and out[name] != value:
            raise LaunchError(
                f"--{name} is {shown(out[name], 40)} and {shown(value, 40)}",
                where=where,
                expected="every option once, or with the same value",
            )
        out[name] = value
    return out


def launched_devices(words: tuple[str, ...], variables: Mapping[str, str], where: str) -> int | None:
    """Processes that a launcher in a command starts over all nodes, None where it does not say."""
    found: dict[str, int] = {}
    names = {
        "nproc-per-node": "local", "nproc_per_node": "local", "nnodes": "nodes", "worker-num": "all",
        "worker_num": "all", "num-gpus": "local", "num_gpus": "local", "num-nodes": "nodes", "num_nodes": "nodes",
        "ntasks": "all", "local-worker-num": "", "local_worker_num": "",
    }  # fmt: skip
    for i, word in enumerate(words):
        name, equal, value = word.lstrip("-").partition("=")
        if word.startswith("--") and names.get(name):
            text = value if equal else (words[i + 1] if i + 1 < len(words) else "")
            if re.fullmatch(r"[0-9]{1,9}", text) and int(text):
                found.setdefault(names[name], int(text))
    if "all" in found:
        return found["all"]
    if "local" in found:
        return found["local"] * found.get("nodes", 1)
    world = variables.get("WORLD_SIZE", "")
    return int(world) if re.fullmatch(r"[0-9]{1,9}", world) and int(world) else None
