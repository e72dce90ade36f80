"""Change an experts file as text: what an edit does not name stays as it is, comments included.

The file is composed to a tree of YAML nodes that know their places; an edit replaces places in the
text. A file that is a single ``{...}``, such as JSON, has no lines to keep and is written anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from gateway.config import parse_experts_file
from gateway.errors import ConfigError

Fields = Mapping[str, Any]
Splice = tuple[int, int, str]
"""Start and end in the text, and what is put there instead."""


def put_expert(text: str, name: str, fields: Fields) -> str:
    """Add an expert behind the others, or replace all keys of the one with that name.

    Raises
    ------
    ConfigError
        When the text is not an experts file, before or after; so do the other functions.
    """
    wanted = {"name": name, **fields}
    file = _File(text)
    item = file.expert(name)
    if file.flow:
        new = file.rewritten(lambda tree: _put(tree["experts"], wanted))
    elif item is None:
        new = file.spliced([file.appended(wanted)])
    elif item.flow_style:
        new = file.spliced([file.replaced(item, wanted)])
    else:
        old = {key.value for key, _ in item.value} - wanted.keys()
        new = file.spliced(file.updated(item, wanted, old))
    return _confirmed(new, name, wanted)


def patch_expert(text: str, name: str, fields: Fields, removed: Collection[str] = ()) -> str:
    """Set and remove single keys of an expert; those inside a key are replaced with it."""
    file = _File(text)
    item = file.expert(name)
    if item is None:
        raise no_expert(text, name)
    if file.flow or item.flow_style:
        own = _named(YAML(typ="safe", pure=True).load(text), name).items()
        kept = {key: value for key, value in own if key not in {"name", *removed}}
        return put_expert(text, name, {**kept, **fields})
    new = file.spliced(file.updated(item, fields, set(removed) - fields.keys()))
    return _confirmed(new, name, fields)


def remove_expert(text: str, name: str) -> str:
    """Remove an expert with the comment right above it."""
    file = _File(text)
    item = file.expert(name)
    if item is None:
        raise no_expert(text, name)
    if file.flow:
        return file.rewritten(lambda tree: tree["experts"].remove(_named(tree, name)))
    return file.spliced([file.without(item)])


def set_top(text: str, fields: Fields) -> str:
    """Set keys of the file itself, such as `general`."""
    file = _File(text)
    if file.flow:
        return file.rewritten(lambda tree: tree.update(fields))
    return file.spliced(file.updated(file.root, fields, set()))


def set_mapping(text: str, mapping: Fields) -> str:
    """Replace the mapping; categories that stay keep their place and their comments."""
    file = _File(text)
    old = _value(file.root, "mapping")
    names = {key.value for key, _ in old.value}
    if file.flow or old.flow_style or not names & mapping.keys():
        return set_top(text, {"mapping": mapping})
    return file.spliced(file.updated(old, mapping, names - mapping.keys()))


class _File:
    """The text of an experts file and its nodes."""

    def __init__(self, text: str) -> None:
        parse_experts_file(text)
        self.text = text if text.endswith("\n") else f"{text}\n"
        self.root: MappingNode = YAML(typ="safe", pure=True).compose(self.text)
        self.experts: SequenceNode = _value(self.root, "experts")
        self.flow = bool(self.root.flow_style or self.experts.flow_style)

    def expert(self, name: str) -> MappingNode | None:
        """Return the node of an expert; None when there is none of that name."""
        for item in self.experts.value:
            if _value(item, "name").value == name:
                found: MappingNode = item
                return found
        return None

    def rewritten(self, change: Callable[[Any], object]) -> str:
        """Change the tree and write all of it anew."""
        yaml = _yaml()
        tree = yaml.load(self.text)
        change(tree)
        return _dumped(tree)

    def spliced(self, splices: Sequence[Splice]) -> str:
        """Return the text with places replaced."""
        text = self.text
        for start, end, new in sorted(splices, reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def updated(self, node: MappingNode, fields: Fields, removed: set[str]) -> list[Splice]:
        """Set and remove keys of a mapping in block style."""
        column = node.value[0][0].start_mark.column
        own = {key.value: (key, value) for key, value in node.value}
        splices = [self._set(*own[key], fields[key]) for key in own.keys() & fields.keys()]
        splices += [self._removed(node, key) for key in own.keys() & removed]
        new = [key for key in fields if key not in own]
        kept = [pair for pair in node.value if pair[0].value not in removed]
        if new:
            at = self._line_end(self._end(*kept[-1]))
            lines = "".join(
                f"{' ' * column}{_inline(key)}: {_inline(fields[key])}\n" for key in new
            )
            splices.append((at, at, lines))
        return splices

    def appended(self, fields: Fields) -> Splice:
        """Write an expert behind the last one, in the manner of the file."""
        last = self.experts.value[-1]
        at = self._line_end(self._last(last))
        dash = self._dash(last)
        indent = " " * (dash - self._line_start(dash))
        return at, at, f"\n{indent}- {_block(fields, indent + '  ')}"

    def replaced(self, item: Node, fields: Fields) -> Splice:
        """Write an expert in flow style anew."""
        return item.start_mark.index, item.end_mark.index, _inline(dict(fields))

    def without(self, item: Node) -> Splice:
        """Take out an expert, the comment right above it, and the empty lines behind it."""
        dash = self._dash(item)
        start = self._line_start(dash)
        column = dash - start
        while start > 0:
            above = self._line_start(start - 1)
            line = self.text[above:start]
            if not (line.lstrip().startswith("#") and len(line) - len(line.lstrip()) >= column):
                break
            start = above
        end = self._line_end(self._last(item))
        while end < len(self.text) and not self.text[end : self._line_end(end)].strip():
            end = self._line_end(end)
        return start, end, ""

    def _set(self, key: Node, value: Node, new: object) -> Splice:
        after_colon = self.text.index(":", key.end_mark.index) + 1
        return after_colon, self._end(key, value), f" {_inline(new)}"

    def _removed(self, node: MappingNode, name: str) -> Splice:
        names = [key.value for key, _ in node.value]
        index = names.index(name)
        key, value = node.value[index]
        start, end = self._line_start(key.start_mark.index), self._line_end(self._end(key, value))
        if self.text[start : key.start_mark.index].strip() and index + 1 < len(names):
            # it stands behind the dash: the next key takes its place
            return key.start_mark.index, node.value[index + 1][0].start_mark.index, ""
        return start, end, ""

    def _end(self, key: Node, value: Node) -> int:
        """Return where the value of a key ends."""
        if value.start_mark.index < key.start_mark.index:  # an alias of what stands above
            alias = re.compile(r"\s*:\s*\*[^\s,\]}]+").match(self.text, key.end_mark.index)
            return alias.end() if alias else key.end_mark.index
        if value.start_mark.index == value.end_mark.index:  # nothing stands there
            return self.text.index(":", key.end_mark.index) + 1
        return self._last(value)

    def _last(self, node: Any) -> int:  # noqa: ANN401
        """Return where a node ends: what the composer counts to it reaches up to the next one."""
        if isinstance(node, ScalarNode) or node.flow_style or not node.value:
            start = int(node.start_mark.index)
            return start + len(self.text[start : node.end_mark.index].rstrip())
        last = node.value[-1]
        return self._end(*last) if isinstance(node, MappingNode) else self._last(last)

    def _dash(self, item: Node) -> int:
        return self.text.rindex("-", 0, item.start_mark.index)

    def _line_start(self, index: int) -> int:
        return self.text.rfind("\n", 0, index) + 1

    def _line_end(self, index: int) -> int:
        """Return where the line after the one of `index` starts."""
        return self.text.index("\n", index) + 1


def _value(node: MappingNode, name: str) -> Any:  # noqa: ANN401 (ruamel.yaml is not typed)
    """Return the value of a key, looked up in what is merged in where it is not its own."""
    merged: list[MappingNode] = []
    for key, value in node.value:
        if key.value == name:
            return value
        if key.value == "<<":
            merged += value.value if isinstance(value, SequenceNode) else [value]
    return next(found for other in merged if (found := _value(other, name)) is not None)


def _put(experts: list[Any], wanted: Fields) -> None:
    names = [expert["name"] for expert in experts]
    if wanted["name"] in names:
        experts[names.index(wanted["name"])] = dict(wanted)
    else:
        experts.append(dict(wanted))


def _confirmed(text: str, name: str, fields: Fields) -> str:
    """Return the text if it is an experts file in which an expert has these keys."""
    parse_experts_file(text)
    found = _named(YAML(typ="safe", pure=True).load(text), name)
    if any(found.get(key) != value for key, value in fields.items()):
        raise ConfigError(f"the lines of expert {name!r} cannot be changed for you: do it by hand")
    return text


def _named(tree: Any, name: str) -> Any:  # noqa: ANN401
    return next(expert for expert in tree["experts"] if expert["name"] == name)


def no_expert(text: str, name: str) -> ConfigError:
    """Return the error of naming an expert that there is not."""
    names = ", ".join(expert.name for expert in parse_experts_file(text).experts)
    return ConfigError(f"no expert {name!r}. Allowed: {names}")


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.width = sys.maxsize  # one value, one line
    yaml.allow_unicode = True
    return yaml


def _dumped(tree: object) -> str:
    out = StringIO()
    _yaml().dump(tree, out)
    return out.getvalue()


def _inline(value: object) -> str:
    """Write a value in one line."""
    if value is None:
        return "null"
    return _dumped({"k": _flow(value)}).removeprefix("k:").strip()


def _block(fields: Fields, indent: str) -> str:
    """Write an expert with a key on each line; the first one goes behind a dash."""
    return indent.join(f"{_inline(key)}: {_inline(value)}\n" for key, value in fields.items())


def _flow(value: object) -> object:
    if isinstance(value, Mapping):
        tree = CommentedMap({key: _flow(item) for key, item in value.items()})
        tree.fa.set_flow_style()
        return tree
    if isinstance(value, list | tuple):
        items = CommentedSeq([_flow(item) for item in value])
        items.fa.set_flow_style()
        return items
    if isinstance(value, str) and not (value.isprintable() and value == value.strip()):
        return DoubleQuotedScalarString(value)
    return value
