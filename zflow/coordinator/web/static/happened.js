// What happened: a time line of the last 15 minutes, and the events in words. And dead letters.

import { clock, count, make, svg } from "./format.js";

const KEPT = 500;
const SHOWN = 120;
const SPAN_S = 900;
const LANE = 18;
const LABEL = 62;
// The kinds that have a lane of their own, with the shape of their marks; all others share one.
const LANES = [
  ["start", "circle"],
  ["death", "cross"],
  ["scale", "triangle"],
  ["move", "diamond"],
  ["other", "bar"],
];

export class Happened {
  constructor(line, list) {
    this.line = line;
    this.list = list;
    this.events = [];
    new ResizeObserver(() => this.drawLine()).observe(line);
  }

  clear() {
    this.events = [];
    this.list.replaceChildren();
  }

  add(event) {
    if (this.events.some((one) => one.number === event.number)) return;
    this.events.push(event);
    if (this.events.length > KEPT) this.events.shift();
    this.list.prepend(item(event));
    while (this.list.children.length > SHOWN) this.list.lastChild.remove();
  }

  // The texts of the moves of one stage.
  movesOf(stage) {
    return this.events
      .filter((one) => one.kind === "move" && one.stage === stage)
      .map((one) => one.text);
  }

  drawLine(nowSeconds = this.now) {
    this.now = nowSeconds;
    const width = this.line.clientWidth;
    if (!width || !nowSeconds) return;
    const height = LANES.length * LANE + 18;
    const place = (atSeconds) =>
      LABEL + (width - LABEL - 8) * (1 - Math.min(1, (nowSeconds - atSeconds) / SPAN_S));
    const drawing = svg("svg", { width, height, role: "img", "aria-label": this.summary() });
    LANES.forEach(([kind], k) => {
      const y = k * LANE + LANE / 2;
      const rule = svg("line", { class: "lane", x1: LABEL, x2: width - 8, y1: y, y2: y });
      drawing.append(rule, svg("text", { x: 0, y: y + 4 }, kind));
    });
    for (const minutes of [15, 10, 5, 0]) {
      const x = place(nowSeconds - minutes * 60);
      const words = minutes ? `-${minutes} min` : "now";
      const anchor = minutes === 15 ? "start" : minutes ? "middle" : "end";
      drawing.append(svg("text", { x, y: height - 3, "text-anchor": anchor }, words));
    }
    for (const event of this.events) {
      if (nowSeconds - event.at_s > SPAN_S) continue;
      drawing.append(mark(event, place(event.at_s)));
    }
    this.line.replaceChildren(drawing);
  }

  summary() {
    const counts = LANES.map(([kind]) => [kind, this.events.filter((e) => laneOf(e) === kind)]);
    return counts.map(([kind, found]) => `${found.length} ${kind}`).join(", ");
  }
}

function laneOf(event) {
  return LANES.some(([kind]) => kind === event.kind) ? event.kind : "other";
}

function mark(event, x) {
  const k = LANES.findIndex(([kind]) => kind === laneOf(event));
  const y = k * LANE + LANE / 2;
  const shape = {
    circle: () => svg("circle", { cx: x, cy: y, r: 3.5 }),
    cross: () => svg("path", { d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8` }),
    triangle: () => svg("path", { d: `M${x} ${y - 5}l5 9h-10z` }),
    diamond: () => svg("path", { d: `M${x} ${y - 5}l5 5l-5 5l-5 -5z` }),
    bar: () => svg("path", { d: `M${x} ${y - 6}v12` }),
  }[LANES[k][1]]();
  shape.setAttribute("class", `mark ${LANES[k][0]}`);
  shape.append(svg("title", {}, `${clock(event.at_s)} ${words(event)}`));
  return shape;
}

function words(event) {
  const about = event.slot || event.stage;
  return [event.kind, about, event.text.split("\n")[0]].filter(Boolean).join(" ");
}

function item(event) {
  return make(
    "li",
    { "data-kind": event.kind },
    make("time", {}, clock(event.at_s)),
    make("b", {}, event.kind),
    make("span", {}, event.slot || event.stage),
    make("span", { class: "text" }, event.text.split("\n")[0]),
  );
}

// Dead letters by stage, and the command that shows them.
export function showDead(place, stages) {
  const found = stages.filter((stage) => stage.dead_letters);
  const signature = JSON.stringify(found.map((stage) => [stage.name, stage.dead_letters]));
  if (place.dataset.shown === signature) return;
  place.dataset.shown = signature;
  if (!found.length) {
    place.replaceChildren(make("p", { class: "nothing" }, "None: no item was given up."));
    return;
  }
  const rows = found.map((stage) =>
    make(
      "tr",
      {},
      make("td", {}, stage.name),
      make("td", { class: "number" }, count(stage.dead_letters)),
      make("td", {}, make("code", {}, `zflow dead ls --stage ${stage.name}`)),
    ),
  );
  const head = make(
    "tr",
    {},
    make("th", { scope: "col" }, "stage"),
    make("th", { scope: "col", class: "number" }, "items"),
    make("th", { scope: "col" }, "look at them"),
  );
  place.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

