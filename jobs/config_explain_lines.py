"""On which line of a config file each value stands.

Called by `jobs.config_explain` with a text that was read as a config before. Invariant: the paths
are those of the values that `mulm.config` reads, merged keys of YAML included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import yaml

Path = tuple[str, ...]
"""Keys from the outermost in; places in lists count from 0."""

_MERGE = "tag:yaml.org,2002:merge"


def lines_of_values(text: str) -> dict[Path, int]:
    """The line of each key and list item, counted from 1; JSON is read as the YAML that it is.

    Empty where the text is JSON that YAML cannot read.
    """
    import yaml

    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return {}
    return dict(_walk(root, ())) if root is not None else {}


def _walk(node: yaml.Node, path: Path) -> Iterator[tuple[Path, int]]:
    """Paths and lines; of two lines for one path the later one counts.

    So what is merged comes before a key of one's own, and of several merged mappings the first
    comes last.
    """
    import yaml

    if isinstance(node, yaml.SequenceNode):
        for at, inner in enumerate(node.value):
            yield (*path, str(at)), inner.start_mark.line + 1
            yield from _walk(inner, (*path, str(at)))
    if isinstance(node, yaml.MappingNode):
        for merged in reversed([value for key, value in node.value if key.tag == _MERGE]):
            nodes = merged.value if isinstance(merged, yaml.SequenceNode) else [merged]
            for one in reversed(nodes):
                yield from _walk(one, path)
        for key, value in node.value:
            if key.tag != _MERGE:
                yield (*path, str(key.value)), key.start_mark.line + 1
                yield from _walk(value, (*path, str(key.value)))
