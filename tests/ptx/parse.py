"""Read the text of a PTX module: its variables, its functions, and every instruction with its operands."""

import re

from .syntax import SIZES, Address, Function, Group, Instruction, Module, Name, Number, PtxError, Variable, integer

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
# Directives that end with their line and mean nothing here.
LINE = re.compile(r"^\s*\.(version|target|address_size|file|loc|branchprotect)\b[^\n]*$", re.MULTILINE)
LABEL = re.compile(r"\s*([\w$%]+)\s*:(?!:)")
RANGE = re.compile(r"(.+?)<(\d+)>$")
NUMBER = re.compile(r"-?(0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?|\d+\.\d*([eE][-+]?\d+)?|\d+U?)$")


def split(text):
    """The parts between the commas that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        if letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    last = text[start:].strip()
    return [*parts, last] if last or parts else []


def closing(text, start):
    """Where the brace opened at ``start`` closes."""
    depth = 0
    for match in re.finditer(r"[{}]", text[start:]):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return start + match.start()
    raise PtxError("a brace is not closed")


def variable(text):
    """``.global .align 8 .u64 name[4] = {1, 2}`` as a Variable."""
    text, _, values = text.partition("=")
    words = text.split()
    align = 0
    if ".align" in words:
        at = words.index(".align")
        align = int(words[at + 1])
        del words[at : at + 2]
    known = [w[1:] for w in words if w.startswith(".")]
    space = next((w for w in known if w in ("global", "const", "shared", "local", "param")), "param")
    kind = next((w for w in known if w in SIZES), "b64")
    width = SIZES[kind] * {"v2": 2, "v4": 4}.get(next((w for w in known if w in ("v2", "v4")), ""), 1)
    name, count = re.fullmatch(r"([^\[]+)((?:\[\s*\d*\s*\])*)", words[-1]).groups()
    size = width
    for length in re.findall(r"\[\s*(\d*)\s*\]", count):
        size *= int(length or 0)
    given = [v.strip() for v in values.strip(" {}\n\t").split(",")] if values else None
    return Variable(name, space, kind, align or width, size, given)


class Body:
    """Reads the statements of one function; names of inner scopes become unique."""

    def __init__(self, function, text):
        self.function, self.text = function, text
        self.scopes = [({}, {})]  # of each open scope: names, and prefixes of ranges of registers
        self.path, self.opened = (0,), 0
        self.labels = {}
        at = 0
        while at < len(text):
            at = self.statement(at)
        for item in function.body:
            if isinstance(item, Instruction) and item.parts[0] in ("bra", "brx"):
                item.operands = [self.label(o, item.scope) for o in item.operands]
        function.tables = {k: [self.label(Name(n), s).name for n in v] for k, (v, s) in function.tables.items()}

    def label(self, operand, scope):
        if isinstance(operand, Name):
            for depth in range(len(scope), 0, -1):
                if (scope[:depth], operand.name) in self.labels:
                    return Name(self.labels[scope[:depth], operand.name])
        return operand

    def statement(self, at):
        text = self.text
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            return at
        if text[at] == "{":
            self.opened += 1
            self.path = (*self.path, self.opened)
            self.scopes.append(({}, {}))
            return at + 1
        if text[at] == "}":
            self.path = self.path[:-1]
            self.scopes.pop()
            return at + 1
        if match := LABEL.match(text, at):
            name = match.group(1)
            unique = name if len(self.path) == 1 else f"{name}@{self.path[-1]}"
            self.labels[self.path, name] = unique
            self.function.body.append(unique)
            return match.end()
        end = text.index(";", at)
        statement = " ".join(text[at:end].split())
        if statement.startswith("."):
            self.directive(statement)
        elif statement:
            self.instruction(statement)
        return end + 1

    def directive(self, text):
        word = text.split(maxsplit=1)[0]
        inner = f"@{self.path[-1]}" if len(self.path) > 1 else ""
        names, ranges = self.scopes[-1]
        if word == ".reg":
            words = text.replace(",", " , ").split()
            kind = next(w[1:] for w in words if w[1:] in SIZES)
            start = max(i for i, w in enumerate(words) if w[1:] in SIZES) + 1
            for name in "".join(words[start:]).split(","):
                if match := RANGE.fullmatch(name):
                    ranges[match.group(1)] = (kind, inner)
                else:
                    names[name] = name + inner
                    self.function.registers[name + inner] = kind
        elif word in (".local", ".shared", ".param"):
            found = variable(text)
            names[found.name] = found.name = found.name + inner
            self.function.variables[found.name] = found
        elif word == ".branchtargets":
            targets = split(text.split(maxsplit=1)[1])
            self.function.tables[self.function.body[-1]] = (targets, self.path)
        elif word not in (".pragma", ".callprototype"):
            raise PtxError(f"unknown directive: {text}")

    def resolve(self, name):
        """The unique name of what ``name`` means here."""
        for names, ranges in reversed(self.scopes):
            if name in names:
                return names[name]
            match = re.fullmatch(r"(.*?)(\d+)", name)
            # %r1 may belong to the range %r or, rarely, to a range whose own name ends in a digit
            while match:
                if match.group(1) in ranges:
                    kind, inner = ranges[match.group(1)]
                    self.function.registers[name + inner] = kind
                    return name + inner
                match = re.fullmatch(rf"({re.escape(match.group(1))}\d)(\d+)", name)
        return name

    def operand(self, text):
        text = text.strip()
        if text[0] in "{(":
            return Group(text[0], tuple(self.operand(t) for t in split(text[1:-1])))
        if text[0] == "[":
            inner = text[1:-1]
            base, sign, offset = re.fullmatch(r"\s*(-?[^+\-\s]+)\s*(?:([+-])\s*(.+?))?\s*", inner).groups()
            away = integer(offset.replace(" ", "")) if offset else 0  # also [a+-8]
            return Address(self.operand(base), -away if sign == "-" else away)
        if "|" in text:
            return Group("|", tuple(self.operand(t) for t in text.split("|")))
        if text[0] == "!":
            return Group("!", (self.operand(text[1:]),))
        if NUMBER.match(text):
            return Number(text)
        if match := re.fullmatch(r"([^+\s]+)\s*\+\s*(\d+)", text):
            return Name(self.resolve(match.group(1)), int(match.group(2)))
        return Name(self.resolve(text))

    def instruction(self, text):
        guard, rest = None, text
        if text.startswith("@"):
            word, rest = text.split(maxsplit=1)
            guard = (self.resolve(word.lstrip("@!")), "!" in word)
        opcode, _, operands = rest.partition(" ")
        found = [self.operand(o) for o in split(operands)]
        self.function.body.append(Instruction(opcode, found, text, guard, self.path))


def header(text):
    """The function that ``.visible .entry name(...)`` announces."""
    entry = ".entry" in text
    kind = ".entry" if entry else ".func"
    rest = text[text.index(kind) + len(kind) :]
    lists = r"\s*(?:\(([^()]*)\))?\s*([\w$%]+)\s*(?:\(([^()]*)\))?"
    results, name, parameters = re.match(lists, rest).groups()
    found = [[variable(p) for p in split(t or "")] for t in (results, parameters)]
    return Function(name, entry, *found)


def parse(text):
    """Read a whole module."""
    text = LINE.sub("", COMMENT.sub(" ", text))
    module, at = Module(), 0
    while match := re.compile(r"[;{]").search(text, at):
        head = text[at : match.start()].strip()
        if match.group() == "{" and "=" not in head:
            end = closing(text, match.start())
            if ".entry" in head or ".func" in head:
                function = header(head)
                Body(function, text[match.start() + 1 : end])
                module.functions[function.name] = function
            at = end + 1  # what else has braces, such as .section, is for debuggers
            continue
        end = text.index(";", match.start())
        head = text[at:end].strip()
        if re.search(r"\.(global|const|shared)\b", head):
            found = variable(head)
            module.variables[found.name] = found
        at = end + 1
    return module
