// Elements and icons. Text only ever becomes a text node, so nothing a user or a database says can become markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Make an element: attributes by name, `on` for listeners, children as nodes or text. */
export function element(tag, { on = {}, ...attributes } = {}, ...children) {
  return dress(document.createElement(tag), attributes, on, children);
}

export function svg(tag, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), attributes, {}, children);
}

function dress(node, attributes, listeners, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    node.setAttribute(name, value === true ? "" : value);
  }
  for (const [type, listener] of Object.entries(listeners)) node.addEventListener(type, listener);
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const PATHS = {
  pending: ["M8 2.5a5.5 5.5 0 1 1 0 11 5.5 5.5 0 0 1 0-11Z", "M8 5v3.2l2 1.3"],
  in_progress: ["M8 2.5a5.5 5.5 0 1 1-5.5 5.5"],
  done: ["m3 8.5 3.3 3.3L13 5"],
  error: ["M8 2.2 14.2 13H1.8Z", "M8 6.4v3", "M8 11.3v.1"],
  other: ["M8 2.5a5.5 5.5 0 1 1 0 11 5.5 5.5 0 0 1 0-11Z"],
  up: ["M5 7.2v6.3H2.6V7.2Zm0 0L7.8 2c1 0 1.7.8 1.5 1.8l-.5 2.4h3.6c.9 0 1.5.8 1.3 1.6l-1.1 4.5c-.2.7-.7 1.2-1.4 1.2H5"],
  down: ["M5 8.8V2.5H2.6v6.3Zm0 0L7.8 14c1 0 1.7-.8 1.5-1.8l-.5-2.4h3.6c.9 0 1.5-.8 1.3-1.6l-1.1-4.5c-.2-.7-.7-1.2-1.4-1.2H5"],
  retry: ["M13 8a5 5 0 1 1-1.5-3.6L13 6", "M13 2.8V6H9.8"],
  remove: ["M3 4.5h10", "M6.2 4.5V3h3.6v1.5", "M4.3 4.5l.6 8.5h6.2l.6-8.5"],
  chevron: ["m5.5 6.5 2.5 2.5 2.5-2.5"],
};

export function icon(name) {
  const paths = (PATHS[name] ?? PATHS.other).map((d) => svg("path", { d }));
  return svg("svg", { class: `icon icon-${name}`, viewBox: "0 0 16 16", "aria-hidden": "true", focusable: "false" }, ...paths);
}

/** Change a text only if it differs: screen readers repeat what is set again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
