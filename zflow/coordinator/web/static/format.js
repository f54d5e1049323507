// How numbers read. Decides wording only.

const LARGE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(n) {
  return LARGE.format(n);
}

export function rate(perSecond) {
  if (!perSecond) return "0";
  if (perSecond >= 1e6) return `${(perSecond / 1e6).toFixed(2)} M`;
  if (perSecond >= 1e5) return `${(perSecond / 1e3).toFixed(0)} k`;
  return perSecond >= 10 ? LARGE.format(perSecond) : perSecond.toFixed(1);
}

export function share(ratio) {
  return `${Math.round(ratio * 100)}%`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  if (seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  return seconds < 10 ? `${seconds.toFixed(2)} s` : `${seconds.toFixed(0)} s`;
}

export function size(bytes) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (bytes < 1024) return `${unit === "B" ? bytes : bytes.toFixed(1)} ${unit}`;
    bytes /= 1024;
  }
  return `${bytes.toFixed(1)} TiB`;
}

export function elapsed(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

export function clock(atSeconds) {
  return new Date(atSeconds * 1000).toLocaleTimeString("en-GB");
}

// The state that has most of the time; "" if nothing was counted.
export function leading(times) {
  const shares = STATES.map((state) => [times[`${state}_ratio`], state]);
  const [most, state] = shares.reduce((a, b) => (b[0] > a[0] ? b : a));
  return most > 0 ? state : "";
}

export const STATES = ["busy", "overhead", "blocked", "starved"];

// An element with attributes, texts and children. In SVG with `svg`.
export function make(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Change a text only if it is another one: nothing flickers, nothing is read aloud again.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
