// The stages and edges as a drawing. Laid out again when the topology changes or the room does;
// otherwise only the numbers in it move.

import { Graph, layout } from "./vendor/dagre.esm.js";
import { STATES, count, leading, rate, say, share, svg } from "./format.js";

const NODE = { width: 188, height: 84 };
const EDGE = { width: 92, height: 40 };
const BAR = { width: 164, height: 6 };
const QUEUE = { width: 56, height: 5 };
const WIDEST = 9;
const LEAST_SCALE = 0.72; // a chain that needs less than that runs downwards

export class StageGraph {
  constructor(place, onSelect) {
    this.place = place;
    this.onSelect = onSelect;
    this.signature = "";
    this.nodes = new Map();
    this.edges = new Map();
    this.selected = "";
    new ResizeObserver(() => this.view && this.show(this.view)).observe(place);
  }

  show(view) {
    this.view = view;
    const { stages, edges } = view.rates;
    const laid = arranged(stages, edges, this.place.clientWidth);
    const signature = JSON.stringify([
      stages.map((one) => one.name),
      edges.map((one) => one.label),
      laid.direction,
    ]);
    if (signature !== this.signature) {
      this.signature = signature;
      this.draw(laid, stages, edges);
    }
    const busiest = Math.max(...edges.map((one) => one.rate_per_s), 1);
    for (const stage of stages) this.nodes.get(stage.name).show(stage, view.verdict);
    for (const edge of edges) this.edges.get(edge.label).show(edge, busiest);
  }

  select(name) {
    this.selected = name;
    for (const [stage, node] of this.nodes) node.select(stage === name);
  }

  draw(laid, stages, edges) {
    const focused = document.activeElement?.dataset?.stage;
    const drawing = svg("svg", {
      viewBox: `0 0 ${laid.width} ${laid.height}`,
      width: laid.width,
      height: laid.height,
      role: "group",
      "aria-label": "Stages, and the edges between them",
    });
    this.nodes.clear();
    this.edges.clear();
    for (const edge of edges) {
      const drawn = new Edge(edge, laid.edge(edge));
      this.edges.set(edge.label, drawn);
      drawing.append(drawn.element);
    }
    for (const stage of stages) {
      const drawn = new Node(stage, laid.node(stage.name), () => this.onSelect(stage.name));
      this.nodes.set(stage.name, drawn);
      drawing.append(drawn.element);
    }
    this.place.replaceChildren(drawing);
    this.select(this.selected);
    if (focused) this.nodes.get(focused)?.element.focus();
  }
}

// From left to right where that fits, else downwards.
function arranged(stages, edges, room) {
  const across = placed(stages, edges, "LR");
  return across.width * LEAST_SCALE <= room ? across : placed(stages, edges, "TB");
}

function placed(stages, edges, direction) {
  const graph = new Graph({ multigraph: true });
  graph.setGraph({ rankdir: direction, nodesep: 26, ranksep: 26, marginx: 4, marginy: 6 });
  for (const stage of stages) graph.setNode(stage.name, { ...NODE });
  for (const edge of edges) {
    graph.setEdge(edge.source, edge.target, { ...EDGE, labelpos: "c" }, edge.label);
  }
  layout(graph);
  const { width, height } = graph.graph();
  return {
    direction,
    width,
    height,
    node: (name) => graph.node(name),
    edge: (edge) => graph.edge({ v: edge.source, w: edge.target, name: edge.label }),
  };
}

class Node {
  constructor(stage, at, choose) {
    const left = -BAR.width / 2;
    this.name = svg("text", { class: "name", x: left, y: -18 });
    this.replicas = svg("text", { class: "replicas", x: -left, y: -18, "text-anchor": "end" });
    this.rate = svg("text", { class: "rate", x: -left, y: 6, "text-anchor": "end" });
    this.state = svg("text", { class: "state", x: left, y: 6 });
    this.parts = STATES.map((state) => svg("rect", { class: state, y: 20, height: BAR.height }));
    this.element = svg(
      "g",
      {
        class: "node",
        transform: `translate(${at.x} ${at.y})`,
        tabindex: "0",
        role: "button",
        "data-stage": stage.name,
      },
      svg("title", {}, stage.name),
      svg("rect", {
        class: "box",
        x: -NODE.width / 2,
        y: -NODE.height / 2,
        width: NODE.width,
        height: NODE.height,
        rx: 7,
      }),
      this.name,
      this.replicas,
      this.state,
      this.rate,
      svg("rect", { class: "bar", x: left, y: 20, width: BAR.width, height: BAR.height }),
      ...this.parts,
    );
    this.name.textContent = stage.name.length > 17 ? `${stage.name.slice(0, 16)}…` : stage.name;
    this.element.addEventListener("click", choose);
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose();
      }
    });
  }

  show(stage, verdict) {
    const running = stage.states.running ?? 0;
    const words = stateOf(stage);
    say(this.replicas, `${running}/${stage.desired}`);
    say(this.state, words.text);
    say(this.rate, `${rate(stage.rate_per_s)}/s`);
    let x = -BAR.width / 2;
    STATES.forEach((state, k) => {
      const width = BAR.width * stage.times[`${state}_ratio`];
      this.parts[k].setAttribute("x", x.toFixed(1));
      this.parts[k].setAttribute("width", Math.max(0, width).toFixed(1));
      x += width;
    });
    this.element.dataset.state = words.state;
    this.element.dataset.told = String(verdict.stage === stage.name);
    this.element.setAttribute(
      "aria-label",
      `${stage.name}: ${words.text}, ${rate(stage.rate_per_s)} items per second, ` +
        `${running} of ${stage.desired} replicas run`,
    );
  }

  select(chosen) {
    this.element.setAttribute("aria-pressed", String(chosen));
  }
}

// In words, and the state that gives the colour.
function stateOf(stage) {
  const others = Object.entries(stage.states).filter(([state]) => state !== "running");
  if (others.length) {
    const down = others.some(([state]) => state === "down" || state === "lost");
    const text = others.map(([state, n]) => `${n} ${state}`).join(", ");
    return { text, state: down ? "down" : "other" };
  }
  const state = leading(stage.times);
  if (!state) return { text: "running", state: "other" };
  return { text: `${state} ${share(stage.times[`${state}_ratio`])}`, state };
}

class Edge {
  constructor(edge, at) {
    const x = at.x - QUEUE.width / 2;
    this.path = svg("path", { class: "flow", d: curve(at.points) });
    this.rate = svg("text", { class: "rate", x: at.x, y: at.y - 9, "text-anchor": "middle" });
    this.full = svg("rect", { class: "full", x, y: at.y + 9, height: QUEUE.height, width: 0 });
    this.title = svg("title");
    this.element = svg(
      "g",
      { class: "edge", "data-edge": edge.label },
      this.title,
      this.path,
      this.rate,
      svg("rect", { class: "queue", x, y: at.y + 9, width: QUEUE.width, height: QUEUE.height }),
      this.full,
    );
  }

  show(edge, busiest) {
    const full = edge.full_ratio;
    const width = edge.rate_per_s ? 1.5 + (WIDEST - 1.5) * (edge.rate_per_s / busiest) : 1;
    this.path.setAttribute("stroke-width", width.toFixed(1));
    this.element.dataset.idle = String(edge.rate_per_s === 0);
    this.element.dataset.full = String(full > 0.9);
    this.full.setAttribute("width", (QUEUE.width * full).toFixed(1));
    say(this.rate, `${rate(edge.rate_per_s)}/s`);
    say(
      this.title,
      `${edge.label}: ${rate(edge.rate_per_s)} items/s, ${count(edge.queue_items)} items ` +
        `on the way, ${share(full)} full${edge.keyed ? ", by key" : ""}`,
    );
  }
}

// Through the middles of the corners, so that it never swings out.
function curve(points) {
  const [first, ...rest] = points;
  let path = `M${first.x} ${first.y}`;
  rest.forEach((point, k) => {
    const next = rest[k + 1];
    const end = next ? { x: (point.x + next.x) / 2, y: (point.y + next.y) / 2 } : point;
    path += ` Q${point.x} ${point.y} ${end.x} ${end.y}`;
  });
  return path;
}

