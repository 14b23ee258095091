"use strict";

const at = (id) => document.getElementById(id);
let widths = [], picture = null, token = "", calls = 0;

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers });
  const content = await response.json();
  if (response.status === 401) at("login").hidden = false;
  if (!response.ok) throw new Error(content.error);
  return content;
}

function short(number) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (number >= size) return `${(number / size).toPrecision(3)} ${unit}`;
  }
  return String(number);
}

function complain(error) {
  at("problem").textContent = error ? error.message : "";
}

function label() {
  const governed = at("governed").checked;
  at("width").disabled = governed;
  at("chosen").textContent = governed || !widths.length ? "" : String(widths[at("width").value].width);
}

async function predict() {
  label();
  if (!picture) return;
  const call = ++calls;
  const query = at("governed").checked ? "" : `?width=${widths[at("width").value].width}`;
  try {
    const answer = await ask(`/predict${query}`, { method: "POST", body: picture });
    if (call === calls) show(answer); // a slider moves faster than answers come
  } catch (error) {
    if (call === calls) complain(error);
  }
}

function show(answer) {
  complain(null);
  at("predictions").replaceChildren(...answer.predictions.map((entry) => {
    const item = document.createElement("li"), bar = document.createElement("progress");
    const name = document.createElement("span"), share = document.createElement("span");
    bar.value = entry.probability;
    name.textContent = entry.class;
    share.textContent = `${(100 * entry.probability).toFixed(1)} %`;
    item.append(bar, name, share);
    return item;
  }));
  at("used").textContent = String(answer.width);
  at("queue").textContent = `${answer.queue_ms.toFixed(2)} ms`;
  at("compute").textContent = `${answer.compute_ms.toFixed(2)} ms`;
  at("macs").textContent = short(answer.macs);
  at("accuracy").textContent = answer.accuracy === null ? "not measured" : `${answer.accuracy.toFixed(2)} %`;
  draw(answer.width);
}

function draw(now) {
  const svg = at("spectrum"), points = widths.filter((entry) => entry.accuracy !== null);
  svg.replaceChildren();
  const add = (name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    svg.append(element);
  };
  if (!points.length) return;
  const logs = points.map((entry) => Math.log(entry.macs)), scores = points.map((entry) => entry.accuracy);
  const [left, right] = [Math.min(...logs), Math.max(...logs)];
  const high = Math.min(100, Math.max(...scores) + 0.5), low = Math.min(Math.min(...scores) - 0.5, high - 2);
  const x = (macs) => 60 + 550 * (right > left ? (Math.log(macs) - left) / (right - left) : 0.5);
  const y = (accuracy) => 20 + 190 * (high - accuracy) / (high - low);
  for (const share of [0, 0.5, 1]) {
    const accuracy = low + share * (high - low);
    add("line", { class: "grid", x1: 50, x2: 620, y1: y(accuracy), y2: y(accuracy) });
    add("text", { x: 42, y: y(accuracy) + 4, "text-anchor": "end" }, `${accuracy.toFixed(1)}`);
  }
  add("polyline", { class: "curve", points: points.map((entry) => `${x(entry.macs)},${y(entry.accuracy)}`).join(" ") });
  let end = -Infinity;
  for (const entry of points) {
    add("circle", { class: "point", cx: x(entry.macs), cy: y(entry.accuracy), r: 5 });
    if (entry.width === now) add("circle", { class: "now", cx: x(entry.macs), cy: y(entry.accuracy), r: 10 });
    if (x(entry.macs) - end < 70 && entry !== points[points.length - 1]) continue;
    end = x(entry.macs);
    add("text", { x: end, y: 232, "text-anchor": "middle" }, `${short(entry.macs)}`);
    add("text", { x: end, y: 248, "text-anchor": "middle" }, `${entry.width}×`);
  }
}

async function begin() {
  try {
    const found = await ask("/spectrum");
    at("login").hidden = true;
    widths = found.widths;
    at("name").textContent = found.name;
    at("target").textContent = String(Math.round(10 * found.target_ms) / 10);
    at("width").max = widths.length - 1;
    at("width").value = widths.length - 1;
    at("file").disabled = !found.images;
    complain(found.images ? null : new Error("This network takes no pictures; use the Open Inference Protocol."));
    label();
    draw(null);
    await predict();
  } catch (error) {
    complain(error);
  }
}

at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value;
  begin();
});
at("file").addEventListener("change", () => {
  picture = at("file").files[0] || null;
  if (at("picture").src) URL.revokeObjectURL(at("picture").src);
  at("picture").hidden = !picture;
  if (picture) at("picture").src = URL.createObjectURL(picture);
  predict();
});
at("width").addEventListener("input", predict);
at("governed").addEventListener("change", predict);
begin();
