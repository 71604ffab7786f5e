"""Who was connected to whom when the run ended, as a circle."""

import math

from testnet.network_file import NetworkFile
from testnet.page.charts import NODES_SHOWN, choose_tones
from testnet.page.markup import Markup, element, join
from testnet.page.plots import make_key
from testnet.page.timeline import Timeline

WIDTH, HEIGHT, RADIUS = 420, 420, 120
NAME_AT = 10  # beyond the circle


def make_topology(network: NetworkFile, timeline: Timeline) -> Markup:
    """Nodes in the colours of their roles, and a line for each connection that one of its ends told of last."""
    nodes, tones = network.nodes[:NODES_SHOWN], choose_tones(timeline.roles.values())
    turns = {node.node: 2 * math.pi * index / len(nodes) for index, node in enumerate(nodes)}
    links = {
        frozenset((node.node, peer))
        for node in nodes
        for peer in timeline.peers.get(node.name, ())
        if peer in turns and peer != node.node
    }
    lines = [_draw_link(*ends) for ends in sorted(sorted(turns[end] for end in link) for link in links)]
    points = [part for node in nodes for part in _draw_node(node.name, tones[node.role], turns[node.node])]
    box = f"0 0 {WIDTH} {HEIGHT}"
    svg = element("svg", *lines, *points, viewBox=box, class_="topology", role="img", aria_label="Topology")
    key = make_key([(tone, role) for role, tone in tones.items()])
    shown = "" if len(network.nodes) <= len(nodes) else f", of the first {len(nodes)} of {len(network.nodes)} nodes"
    told = element("p", f"{len(links)} connections at the end{shown}", class_="dim")
    return join(element("h2", "Topology"), told, element("p", key), svg)


def _draw_link(one: float, other: float) -> Markup:
    (x1, y1), (x2, y2) = _place(one, RADIUS), _place(other, RADIUS)
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2)


def _draw_node(name: str, tone: str, turn: float) -> tuple[Markup, Markup]:
    """A dot, and its name, read outwards from the middle on the right and inwards on the left."""
    x, y = _place(turn, RADIUS)
    at_x, at_y = _place(turn, RADIUS + NAME_AT)
    is_left = math.cos(turn) < -1e-9
    degrees = round(math.degrees(turn) + (180 if is_left else 0), 1)
    place = {"x": at_x, "y": at_y, "text_anchor": "end" if is_left else "start"}
    label = element("text", name, transform=f"rotate({degrees} {at_x} {at_y})", dominant_baseline="middle", **place)
    return element("circle", cx=x, cy=y, r=5, class_=tone), label


def _place(turn: float, radius: float) -> tuple[float, float]:
    return round(WIDTH / 2 + radius * math.cos(turn), 1), round(HEIGHT / 2 + radius * math.sin(turn), 1)
