// Formulas: \( \), \[ \], $$ $$ and $ $. Markdown leaves them alone; KaTeX sets them, once the first one is met.

import { pageAddress } from "../server/client.js";
import { escapeHtml } from "./inline_html.js";

// A dollar sign is a formula's only where it cannot be a price: no space inside, no digit after.
const INLINE = /^(?:\\\((?<paren>(?:(?!\\\)).|\n(?!\n))+?)\\\)|\$(?![\s$])(?<dollar>(?:\\[^\n]|[^\\$\n])+?)(?<!\s)\$(?![\d$]))/su;
const DISPLAY = /^(?:\\\[(?<bracket>(?:(?!\\\]).)+?)\\\]|\$\$(?<dollars>(?:(?!\$\$).)+?)\$\$)/su;
const ANYWHERE = /\\\(|\\\[|\$/u;
// More of it, or deeper, is an attack or a slip rather than a formula.
const LONGEST = 5_000;
const DEEPEST = 60;
const KEPT = 500;

const tokenOf = (name, pattern, display) => ({
  name,
  start: (src) => src.match(ANYWHERE)?.index,
  tokenizer(src) {
    const found = pattern.exec(src);
    return found ? { type: name, raw: found[0], display } : undefined;
  },
  renderer: (token) => mathHtml(token.raw, token.display),
});

/** Extensions of marked. A formula of its own is a block; one amid a sentence is not. */
export const formulas = [
  { ...tokenOf("mathBlock", new RegExp(`${DISPLAY.source}[ \\t]*(?:\\n|$)`, "su"), true), level: "block", start: (src) => src.match(/^(?:\\\[|\$\$)/mu)?.index },
  { ...tokenOf("mathDisplay", DISPLAY, true), level: "inline" },
  { ...tokenOf("mathInline", INLINE, false), level: "inline" },
];

/** A formula as its source, which `typeset` replaces. */
export function mathHtml(raw, display) {
  const name = display ? "math math-display" : "math";
  return `<span class="${name}"${display ? ' tabindex="0"' : ""}>${escapeHtml(raw.trim())}</span>`;
}

/** Pieces of a text that is no Markdown: [{raw, math, display}]. */
export function splitMath(text) {
  const pieces = [];
  let plain = "";
  for (let at = 0; at < text.length; ) {
    const rest = ANYWHERE.test(text[at] + (text[at + 1] ?? "")) ? text.slice(at) : "";
    const found = rest && (DISPLAY.exec(rest) ?? INLINE.exec(rest));
    if (!found) {
      plain += text[at];
      at += 1;
      continue;
    }
    if (plain) pieces.push({ raw: plain });
    plain = "";
    pieces.push({ raw: found[0], math: true, display: DISPLAY.test(rest) });
    at += found[0].length;
  }
  if (plain) pieces.push({ raw: plain });
  return pieces;
}

let loading = null;
const made = new Map();

async function loadKatex() {
  const sheet = document.createElement("link");
  sheet.rel = "stylesheet";
  sheet.href = new URL("vendor/katex/katex.css", pageAddress).href;
  document.head.append(sheet);
  await import("../vendor/katex/katex.js");
  return globalThis.katex;
}

/** Set the formulas below an element. One that cannot be set stays as it was written. */
export async function typeset(element) {
  const found = [...element.querySelectorAll(".math:not(.math-set)")];
  if (!found.length) return;
  // Those made before are there at once, so that a growing answer does not flicker.
  const missing = found.filter((node) => !fromMemory(node));
  if (!missing.length) return;
  loading ??= loadKatex();
  const katex = await loading;
  for (const node of missing) if (node.isConnected && !node.classList.contains("math-set")) setOne(node, katex);
}

const keyOf = (node) => `${node.classList.contains("math-display")}${node.textContent}`;

function fromMemory(node) {
  const known = made.get(keyOf(node));
  if (known) show(node, known);
  return Boolean(known);
}

function show(node, known) {
  node.dataset.source = node.textContent;
  node.replaceChildren(known.cloneNode(true));
  node.classList.add("math-set");
}

function setOne(node, katex) {
  const source = node.textContent;
  const displayMode = node.classList.contains("math-display");
  const edge = source.startsWith("$") && !source.startsWith("$$") ? 1 : 2;
  const tex = source.slice(edge, -edge);
  if (tex.length > LONGEST || depthOf(tex) > DEEPEST) return;
  const place = document.createElement("span");
  try {
    katex.render(tex, place, { displayMode, throwOnError: true, strict: "ignore", trust: false, maxSize: 25, maxExpand: 300 });
  } catch {
    node.classList.add("math-wrong");
    return;
  }
  if (made.size >= KEPT) made.clear();
  made.set(keyOf(node), place.firstElementChild);
  show(node, place.firstElementChild);
}

function depthOf(tex) {
  let depth = 0;
  let deepest = 0;
  for (const mark of tex.replace(/\\[{}]/gu, "")) {
    depth += mark === "{" ? 1 : mark === "}" ? -1 : 0;
    deepest = Math.max(deepest, depth);
  }
  return deepest;
}
