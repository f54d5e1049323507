// Throughput, latency and queue of the last 15 minutes. Decides which lines there are; uPlot draws.

import { count, rate, span } from "./format.js";

const KEPT = 900; // points of one second
const HEIGHT = 150;
const GAP_S = 3.5; // a longer pause between two points is one in the line

// Where a line's numbers are in a point; see `Point` in the server's live.py.
const CHARTS = {
  rate: {
    title: "items/s",
    show: rate,
    lines: [
      { name: "in", colour: "--line-1", value: (point) => point[1] },
      { name: "out", colour: "--line-2", value: (point) => point[2] },
    ],
    ofStage: (point, k) => point[6][k],
  },
  latency: {
    title: "latency",
    show: span,
    lines: [
      { name: "p50", colour: "--line-2", value: (point) => point[3] },
      { name: "p99", colour: "--line-1", value: (point) => point[4] },
    ],
  },
  queue: {
    title: "items that wait",
    show: count,
    lines: [{ name: "on the way", colour: "--line-2", value: (point) => point[5] }],
    ofStage: (point, k) => point[7][k],
  },
};

export class Charts {
  constructor(place) {
    this.points = [];
    this.stage = "";
    this.stageIndex = -1;
    this.charts = [...place.querySelectorAll("figure")].map(
      (figure) => new Chart(figure, CHARTS[figure.dataset.chart]),
    );
    const theme = matchMedia("(prefers-color-scheme: dark)");
    theme.addEventListener("change", () => this.build());
    new ResizeObserver(() => this.charts.forEach((chart) => chart.resize())).observe(place);
    this.build();
  }

  load(points) {
    this.points = points.slice(-KEPT);
    this.draw();
  }

  add(point) {
    const last = this.points.at(-1);
    if (last && point[0] <= last[0]) return;
    if (last && point[6].length !== last[6].length) this.points = [];
    this.points.push(point);
    if (this.points.length > KEPT) this.points.shift();
    this.draw();
  }

  // Show a line of this stage too.
  select(name, index) {
    if (name === this.stage && index === this.stageIndex) return;
    this.stage = name;
    this.stageIndex = index;
    this.build();
  }

  build() {
    for (const chart of this.charts) chart.build(this.stage, this.stageIndex);
    this.draw();
  }

  draw() {
    for (const chart of this.charts) chart.draw(this.points);
  }
}

class Chart {
  constructor(figure, kind) {
    this.kind = kind;
    this.caption = figure.querySelector("figcaption");
    this.place = figure.querySelector("div");
    this.data = [[]];
  }

  build(stage, index) {
    const lines = [...this.kind.lines];
    if (stage && index >= 0 && this.kind.ofStage) {
      const value = (point) => this.kind.ofStage(point, index);
      lines.push({ name: stage, colour: "--line-3", value });
    }
    this.lines = lines;
    this.plot?.destroy();
    this.caption.replaceChildren(this.kind.title, ...lines.map((line) => this.label(line)));
    this.plot = new window.uPlot(this.options(), this.data.slice(0, 1), this.place);
  }

  label(line) {
    const label = document.createElement("span");
    const value = document.createElement("b");
    label.className = "line";
    label.dataset.colour = line.colour;
    label.append(`${line.name} `, value);
    line.said = value;
    return label;
  }

  options() {
    const ink = colour("--quiet");
    const axis = { stroke: ink, font: "11px system-ui", ticks: { show: false } };
    const grid = { stroke: colour("--rule"), width: 1 };
    return {
      width: this.place.clientWidth || 300,
      height: HEIGHT,
      legend: { show: false },
      cursor: { sync: { key: "time" }, y: false, drag: { x: false, y: false } },
      scales: { x: { range: window_ }, y: { range: fromZero } },
      axes: [
        { ...axis, grid: { show: false }, size: 26, space: 74, values: atTimes },
        {
          ...axis,
          grid,
          size: 58,
          space: 34,
          values: (_plot, values) => values.map((value) => (value ? this.kind.show(value) : "0")),
        },
      ],
      series: [
        {},
        ...this.lines.map((line) => ({
          stroke: colour(line.colour),
          width: 1.5,
          points: { show: false },
        })),
      ],
      hooks: { setCursor: [() => this.tell()] },
    };
  }

  draw(points) {
    const times = points.map((point) => point[0]);
    const columns = this.lines.map((line) => points.map(line.value));
    this.data = withGaps(times, columns);
    this.plot.setData(this.data);
    this.tell();
  }

  // The numbers where the cursor is, or the newest.
  tell() {
    if (!this.plot) return;
    const at = this.plot.cursor.idx ?? this.data[0].length - 1;
    this.lines.forEach((line, k) => {
      const value = this.data[k + 1]?.[at];
      line.said.textContent = value === undefined || value === null ? "-" : this.kind.show(value);
    });
  }

  resize() {
    this.plot?.setSize({ width: this.place.clientWidth || 300, height: HEIGHT });
  }
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// The whole quarter of an hour once it has passed; before, what there is, at least two minutes.
function window_(_plot, _low, high) {
  const first = _low ?? 0;
  const end = high ?? 0;
  return [Math.min(first, end - 120), end];
}

function fromZero(_plot, _low, high) {
  return [0, Math.max(high ?? 0, 1e-6) * 1.1];
}

// With seconds where two marks are less than a minute apart.
function atTimes(_plot, times) {
  const close = times.length > 1 && times[1] - times[0] < 60;
  const shape = { hour: "2-digit", minute: "2-digit", second: close ? "2-digit" : undefined };
  return times.map((time) => new Date(time * 1000).toLocaleTimeString("en-GB", shape));
}

function withGaps(times, columns) {
  const out = [[], ...columns.map(() => [])];
  times.forEach((time, k) => {
    if (k && time - times[k - 1] > GAP_S) {
      out[0].push(time - 0.5);
      columns.forEach((_column, n) => out[n + 1].push(null));
    }
    out[0].push(time);
    columns.forEach((column, n) => out[n + 1].push(column[k] ?? null));
  });
  return out;
}
