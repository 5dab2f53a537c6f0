// A response as people read it: a table with a chart where one helps, or plain text.

import { element, svg } from "./dom.js";

const ROWS_AT_FIRST = 200;
const CHART_ROWS = [2, 40];
const COLUMNS_BESIDE_CHART = 5;
const NUMERIC_TYPE = /^(small|big)?int|^integer|^numeric|^decimal|^real|^double|^float|^money|^number/i;
const BARE_NUMBER = /(^|_)(year|id|no|number|code)$/i;      // a year is not 2,025
const MONTH = /^\d{4}-\d{2}(-01)?(T00:00:00(\.0+)?(Z|[+-]00:?00)?)?$/;
const DRAWN = /[\u2500-\u259f]/;                             // bars and shades: pictures made of characters
const INSTANT = /^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}/;

const monthFormat = new Intl.DateTimeFormat(undefined, { month: "short", year: "numeric", timeZone: "UTC" });
const instantFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const plainNumber = new Intl.NumberFormat();

/** The table in a response's text, or null if it is some other text. */
export function parseTable(text) {
  let parsed;
  try { parsed = JSON.parse(text); } catch { return null; }
  const isTable = Array.isArray(parsed?.columns) && Array.isArray(parsed.rows) && parsed.rows.every(Array.isArray);
  return isTable ? parsed : null;
}

/** One line about a result, such as "12 rows · 8 ms". */
export function describeTable(table) {
  const count = table.row_count ?? table.rows.length;
  const parts = [`${plainNumber.format(count)} ${count === 1 ? "row" : "rows"}`];
  if (table.truncated) parts.push("cut off at the limit");
  if (table.duration_ms !== undefined && table.duration_ms !== null) parts.push(`${describeMs(table.duration_ms)} in the database`);
  return parts.join(" · ");
}

export function describeMs(ms) {
  if (ms < 1) return "under 1 ms";
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  return `${(ms / 1_000).toFixed(ms < 10_000 ? 1 : 0)} s`;
}

export function showResult(text, title) {
  const table = parseTable(text);
  if (!table) {
    return element("div", { class: "result" }, element("pre", { class: "plain", tabindex: "0", role: "region", "aria-label": `Answer: ${title}` }, text));
  }
  const columns = table.columns.map((column, index) => describeColumn(column, table.rows.map((row) => row[index])));
  const chart = showChart(table.rows, columns);
  const isNarrow = columns.length <= COLUMNS_BESIDE_CHART;
  return element("div", { class: chart && isNarrow ? "result beside" : "result" }, chart, showTable(table, columns, title));
}

function describeColumn({ name, type = "" }, values) {
  const present = values.filter((value) => value !== null && value !== undefined);
  const numeric = present.length > 0 && present.every((value) => isNumber(value, type));
  if (numeric) {
    const digits = Math.min(2, Math.max(0, ...present.map((value) => (String(value).split(".")[1] ?? "").length)));
    const format = new Intl.NumberFormat(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: !BARE_NUMBER.test(name) });
    return { name, numeric, say: (value) => format.format(value) };
  }
  if (present.length > 0 && present.every((value) => MONTH.test(value)) && (/month/i.test(name) || present.every((value) => String(value).length === 7))) {
    return { name, numeric, say: (value) => monthFormat.format(new Date(`${String(value).slice(0, 7)}-01T00:00:00Z`)) };
  }
  return { name, numeric, say: sayText, drawn: present.some((value) => typeof value === "string" && DRAWN.test(value)) };
}

/** Exact decimals come as text, so that no digit is lost on the way. */
function isNumber(value, type) {
  if (typeof value === "number") return true;
  return typeof value === "string" && NUMERIC_TYPE.test(type) && value.trim() !== "" && Number.isFinite(Number(value));
}

function sayText(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value) && value.every((each) => typeof each !== "object")) return value.join(", ");
  if (typeof value === "object") return JSON.stringify(value);
  if (typeof value === "string" && INSTANT.test(value) && !Number.isNaN(Date.parse(value))) return instantFormat.format(new Date(value));
  return String(value);
}

const heading = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");

function showTable(table, columns, title) {
  const body = element("tbody");
  const addRows = (from, to) => body.append(...table.rows.slice(from, to).map((row) => showRow(row, columns)));
  addRows(0, ROWS_AT_FIRST);
  const scroll = element("div", { class: "table-scroll", tabindex: "0", role: "region", "aria-label": `Result: ${title}` },
    element("table", {},
      element("caption", { class: "visually-hidden" }, `${title}, ${describeTable(table)}`),
      element("thead", {}, element("tr", {}, ...columns.map(({ name, numeric }) => element("th", { scope: "col", class: numeric && "number" }, heading(name))))),
      body));
  if (table.rows.length === 0) return element("p", { class: "hint" }, "The question ran, but nothing matched. Try other values.");
  if (table.rows.length <= ROWS_AT_FIRST) return scroll;
  const more = element("button", { type: "button", class: "button quiet small", on: { click: () => {
    addRows(ROWS_AT_FIRST, table.rows.length);
    more.remove();
    scroll.focus();
  } } }, `Show all ${plainNumber.format(table.rows.length)} rows`);
  return element("div", {}, scroll, more);
}

function showRow(row, columns) {
  return element("tr", {}, ...columns.map(({ numeric, say, drawn }, index) => {
    const value = row[index];
    if (value === null || value === undefined) return element("td", { class: "none" }, "–", element("span", { class: "visually-hidden" }, "no value"));
    return element("td", { class: numeric ? "number" : drawn && "drawn" }, say(value));
  }));
}

/** Bars for results whose rows are labels with numbers; the table below has the same data in words. */
function showChart(rows, columns) {
  const [label, ...others] = columns;
  const measures = others.filter(({ numeric, name }) => numeric && !BARE_NUMBER.test(name));
  const fits = label && !label.numeric && measures.length > 0 && measures.length === others.length;
  if (!fits || rows.length < CHART_ROWS[0] || rows.length > CHART_ROWS[1]) return null;
  // Money, or what comes last, is what people look for first.
  let measure = measures.find(({ name }) => /revenue|amount|total|sales/i.test(name)) ?? measures.at(-1);
  const canvas = element("div", { class: "chart-canvas" });
  const draw = () => canvas.replaceChildren(drawBars(rows, columns, label, measure, canvas.clientWidth, canvas.clientHeight));
  new ResizeObserver(draw).observe(canvas);
  if (measures.length === 1) return element("figure", { class: "chart" }, element("figcaption", {}, heading(measure.name)), canvas);
  const choice = element("select", { "aria-label": "Show in the chart", on: { change: () => {
    measure = measures[choice.selectedIndex];
    draw();
  } } }, ...measures.map((each) => element("option", { selected: each === measure }, heading(each.name))));
  return element("figure", { class: "chart" }, element("figcaption", {}, choice), canvas);
}

function drawBars(rows, columns, label, measure, width, height) {
  const index = columns.indexOf(measure);
  const values = rows.map((row) => Number(row[index] ?? 0));
  const labels = rows.map((row) => (row[0] === null ? "–" : label.say(row[0])));
  const top = 18, bottom = 22;
  const highest = Math.max(...values, 0), lowest = Math.min(...values, 0);
  const scale = (height - top - bottom) / (highest - lowest || 1);
  const base = top + highest * scale;
  const step = Math.max(width, 1) / rows.length;
  const barWidth = Math.max(2, Math.min(44, step * 0.68));
  const short = labels.map((text) => text.replace(/ (\d{4})$/, ""));      // months of one year: the year is said once, above
  const tellYear = new Set(labels.map((text) => text.match(/ (\d{4})$/)?.[1])).size > 1;
  const shown = tellYear ? labels : short;
  const room = Math.max(3, Math.floor(step / 6.6));
  const every = Math.max(1, Math.ceil(Math.min(9, Math.max(...shown.map((text) => text.length))) / room));
  const best = values.indexOf(Math.max(...values));
  const chart = svg("svg", { class: "bars", width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Bar chart of ${heading(measure.name)} by ${heading(label.name)}. Highest: ${labels[best]}, ${measure.say(values[best])}.` },
    svg("line", { class: "axis", x1: 0, x2: width, y1: base, y2: base }));
  values.forEach((value, at) => {
    const middle = step * (at + 0.5);
    const bar = svg("rect", { class: value < 0 ? "bar below" : "bar", x: middle - barWidth / 2, width: barWidth, rx: 3,
      y: value < 0 ? base : base - value * scale, height: Math.max(1, Math.abs(value) * scale) }, svg("title", {}, `${labels[at]}: ${measure.say(value)}`));
    chart.append(bar);
    if (at % every === 0) {
      const fitting = room * every;
      const text = shown[at].length > fitting ? `${shown[at].slice(0, Math.max(1, fitting - 1))}…` : shown[at];
      const half = Math.min(width / 2, text.length * 3.3);
      chart.append(svg("text", { class: "tick", x: Math.min(Math.max(middle, half), width - half), y: height - 6, "text-anchor": "middle" }, text));
    }
    if (at === best) {
      const end = middle > width - 40 ? "end" : middle < 40 ? "start" : "middle";
      chart.append(svg("text", { class: "peak", x: end === "end" ? middle + barWidth / 2 : end === "start" ? middle - barWidth / 2 : middle, y: base - value * scale - 5, "text-anchor": end }, measure.say(value)));
    }
  });
  return chart;
}
