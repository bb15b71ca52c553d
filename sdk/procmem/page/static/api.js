// Requests to the server, errors to the person, and small helpers for the document.
// All addresses are relative: the page's own address holds the launch's token.

export const at = (id) => document.getElementById(id);

export class Refusal extends Error {}

/** Sends a request and gives its JSON; a refusal is thrown with the server's words. */
export async function request(address, options = {}) {
  let response;
  try {
    response = await fetch(address, { cache: "no-store", ...options });
  } catch {
    throw new Refusal("procmem does not answer; start it again and open the new link");
  }
  const document_ = await response.json().catch(() => ({ error: `status ${response.status}` }));
  if (!response.ok) throw new Refusal(document_.error);
  return document_;
}

export const send = (address, body) => request(address, { method: "POST", body });

/** Runs something a person asked for; what goes wrong is shown, not thrown. */
export async function attempt(work) {
  try {
    trouble(null);
    return await work();
  } catch (error) {
    if (!(error instanceof Refusal)) console.error(error);
    trouble(error.message);
    return undefined;
  }
}

export function trouble(text) {
  at("trouble").hidden = !text;
  at("trouble").textContent = text ?? "";
}

/** An element with text, never with markup: labels are a person's words. */
export function make(tag, { text, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

/** A color for a label, the same each time: the palette of Okabe and Ito, then hues around it. */
const PALETTE = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2", "#999999"];
const colors = new Map();
export function colorOf(label) {
  if (!colors.has(label)) {
    const n = colors.size;
    colors.set(label, PALETTE[n] ?? `oklch(0.72 0.13 ${(n * 137.5) % 360})`);
  }
  return colors.get(label);
}

/** A thumbnail, or the label's first letter on its color if none was kept. */
export function pictureOf(item) {
  if (item.thumbnail) {
    return make("img", {
      className: "picture", src: `api/items/${item.id}/thumbnail`, alt: "", loading: "lazy",
    });
  }
  const tile = make("span", { className: "picture", text: [...(item.label ?? "?")][0], ariaHidden: "true" });
  tile.style.background = colorOf(item.label);
  return tile;
}

export const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
