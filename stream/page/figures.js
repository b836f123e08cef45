// The side panel: figures of the status message, the last minute as lines, drops by reason, messages.
// Whatever came over the wire goes in as textContent, never as HTML.

const WINDOW_MS = 60_000;
const GAP_MS = 2500; // a line is broken where nothing came for so long
const MESSAGES = 50;

const byId = (id) => document.getElementById(id);

export function fixed(value, digits = 0) {
  return typeof value === "number" && Number.isFinite(value) ? value.toFixed(digits) : "–";
}

// Digits that matter at any size: 0.42, 8.3, 41, 12 345.
export function plain(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const digits = Math.abs(value) < 1 ? 2 : Math.abs(value) < 100 ? 1 : 0;
  return digits ? value.toFixed(digits) : whole(value);
}

export function whole(value) {
  return fixed(value).replace(/\B(?=(\d{3})+$)/g, "\u2009");
}

function electrons(value) {
  if (typeof value !== "number" || value < 1e5) return plain(value);
  const power = Math.floor(Math.log10(value));
  const raised = [...String(power)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");
  return `${(value / 10 ** power).toFixed(2)} × 10${raised}`;
}

function set(id, text, mood = "") {
  const element = byId(id);
  element.textContent = text;
  element.className = mood;
}

export function showStatus(status) {
  const spread = (pair) => `${plain(pair?.p50)} / ${plain(pair?.p99)}`;
  set("fps", `${fixed(status.fps_in, 1)} / ${fixed(status.fps_out, 1)}`);
  set("latency-p50", plain(status.latency_ms?.p50));
  set("latency-p99", plain(status.latency_ms?.p99));
  set("age", spread(status.age_ms));
  const share = status.in_time === null ? NaN : status.in_time * 100;
  set("in-time", fixed(share, 1), share < 50 ? "bad" : share < 95 ? "warn" : "");
  set("interval", plain(status.frame_interval_ms));
  set("counts", `${whole(status.received)} / ${whole(status.processed)}`);
  set("missing", `${status.missing ?? "–"} / ${status.queue ?? "–"}`, status.missing > 0 ? "warn" : "");
  set("atoms-mean", fixed(status.atoms_mean, 1));
  set("dose-total", electrons(status.dose_total_e_A2));
  set("clock", status.clock_difference_ms === null ? "none" : plain(status.clock_difference_ms));
  set("model", modelName(status.model));
  set("backend", String(status.backend ?? "–"));
  set("policy", `${status.policy ?? "–"} / ${duration(status.uptime_s)}`);
  showDropped(status.dropped ?? {});
}

export function showFrame(header) {
  set("atoms-now", whole(header.count));
  set("dose", electrons(header.dose_e_A2));
}

function modelName(model) {
  if (model && typeof model === "object") return `${model.name ?? "–"} ${model.version ?? ""}`.trim();
  return String(model ?? "–");
}

export function duration(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return "–";
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}

function showDropped(dropped) {
  const reasons = Object.entries(dropped).filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]);
  set("dropped-total", String(reasons.reduce((sum, [, count]) => sum + count, 0)), reasons.length ? "warn" : "");
  byId("dropped").replaceChildren(...reasons.map(([reason, count]) => {
    const [item, number] = [document.createElement("li"), document.createElement("b")];
    number.textContent = count;
    item.append(reason.replaceAll("_", " "), number);
    return item;
  }));
}

// The last minute of one figure as a line.
export class Line {
  constructor(id, colour, fromZero) {
    Object.assign(this, { canvas: byId(id), colour, fromZero, points: [] });
  }

  add(time, value) {
    if (typeof value === "number" && Number.isFinite(value)) this.points.push([time, value]);
  }

  clear() {
    this.points = [];
  }

  draw(now) {
    while (this.points.length && this.points[0][0] < now - WINDOW_MS) this.points.shift();
    const { canvas, points } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const density = window.devicePixelRatio;
    [canvas.width, canvas.height] = [width * density, height * density];
    const context = canvas.getContext("2d");
    context.scale(density, density);
    context.fillStyle = "#7f8c98";
    context.font = "11px system-ui, 'DejaVu Sans', sans-serif";
    context.textAlign = "right";
    context.fillRect(0, height - 1, width, 0.5);
    if (!points.length) return;
    const [low, high] = this.range();
    const place = (time, value) => [
      (1 - (now - time) / WINDOW_MS) * (width - 42),
      height - 3 - ((value - low) / (high - low)) * (height - 8),
    ];
    context.fillText(plain(high), width, 11);
    context.fillText(plain(low), width, height - 4);
    context.strokeStyle = this.colour;
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.beginPath();
    let before = -Infinity;
    for (const [time, value] of points) {
      const [x, y] = place(time, value);
      if (time - before > GAP_MS) context.moveTo(x, y);
      context.lineTo(x, y);
      before = time;
    }
    context.stroke();
  }

  range() {
    let [low, high] = [Infinity, -Infinity];
    for (const [, value] of this.points) [low, high] = [Math.min(low, value), Math.max(high, value)];
    const margin = Math.max((high - low) * 0.1, Math.abs(high) * 0.02, 1e-3);
    return [this.fromZero ? Math.min(low, 0) : Math.max(low - margin, Math.min(low, 0)), high + margin];
  }
}

// Faults, events and warnings, newest first; one that repeats is counted, not listed again.
export class Messages {
  constructor() {
    this.list = byId("messages");
    this.clear();
  }

  add(level, text, time) {
    const known = this.entries.find((entry) => entry.text === text && entry.level === level);
    const repeated = level === "warning" || this.entries[0] === known;
    if (known && repeated) Object.assign(known, { time, count: known.count + 1 });
    else this.entries.unshift({ level, text, time, count: 1 });
    this.entries.length = Math.min(this.entries.length, MESSAGES);
    this.changed = true;
  }

  clear() {
    this.entries = [];
    this.changed = true;
  }

  draw() {
    if (!this.changed) return;
    this.changed = false;
    this.list.replaceChildren(...this.entries.map(({ level, text, time, count }) => {
      const [item, when, what] = ["li", "time", "span"].map((name) => document.createElement(name));
      when.textContent = time.toLocaleTimeString([], { hour12: false });
      what.textContent = count > 1 ? `${text} (${count} times)` : text;
      what.className = level;
      item.append(when, what);
      return item;
    }));
    if (!this.entries.length) this.list.textContent = "No faults, no warnings.";
  }
}
