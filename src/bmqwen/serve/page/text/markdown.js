// Markdown to safe HTML, block by block. HTML in an answer is shown as text but for a few harmless tags; what is made here
// is sanitised once more. The libraries for it come after the page, whose first paint does not wait for them.

import { say, spoken } from "../language/words.js";
import { footnotes } from "./footnotes.js";
import { escapeHtml, harmlessHtml, opensDetails } from "./inline_html.js";
import { formulas, mathHtml, splitMath } from "./math.js";

const ALLOWED = {
  ALLOWED_TAGS:
    "p br hr h1 h2 h3 h4 h5 h6 strong em del a ul ol li blockquote code pre div span button table thead tbody tr th td sub sup kbd mark details summary".split(
      " ",
    ),
  ALLOWED_ATTR: ["href", "class", "target", "rel", "start", "align", "type", "tabindex", "open"],
  ALLOW_DATA_ATTR: false,
};
const LONGEST_HIGHLIGHTED = 50_000;
// No sentence is that long: it is shown as it is, since patterns of emphasis take long to look for in it.
const LONGEST_LINE = 20_000;
const SHORT_CELL = 16;
const KEPT_BLOCKS = 2_000;

let marked = null;
let purifier = null;
let highlighter = null;
let loading = null;
const made = new Map();

/** Fetch the libraries; until they are there a text is shown as it is. */
export function loadMarkdown() {
  loading ??= Promise.all([
    import("../vendor/marked.js"),
    import("../vendor/marked-cjk-friendly.js"),
    import("../vendor/purify.js"),
    import("../vendor/highlight.js"),
  ]).then(([{ Marked, Renderer }, { default: cjkFriendly }, { default: DOMPurify }, { default: hljs }]) => {
    [purifier, highlighter] = [DOMPurify, hljs];
    marked = new Marked({ gfm: true, breaks: true, renderer: rendererOn(Renderer) });
    marked.use(cjkFriendly(), { extensions: [...formulas, ...footnotes] });
  });
  return loading;
}

export function markdownLoaded() {
  return marked !== null;
}

/** The address if it leads to a web page or a mailbox, else null. */
function safeAddress(href) {
  try {
    return ["http:", "https:", "mailto:"].includes(new URL(href).protocol) ? href : null;
  } catch {
    return null;
  }
}

function linkHtml(href, label) {
  const address = safeAddress(href);
  if (!address) return label;
  return `<a href="${escapeHtml(address)}" target="_blank" rel="noopener noreferrer">${label}</a>`;
}

/** A code block with its language and a copy button (text/clipboard.js acts on it). */
function codeHtml(code, info) {
  const language = (info ?? "").trim().split(/\s/u)[0].toLowerCase();
  const known = highlighter?.getLanguage(language) && code.length <= LONGEST_HIGHLIGHTED;
  const body = known ? highlighter.highlight(code, { language, ignoreIllegals: true }).value : escapeHtml(code);
  return (
    `<div class="code"><div class="code-bar"><span>${escapeHtml(language)}</span>` +
    `<button type="button" class="copy-code">${escapeHtml(say("copy"))}</button></div>` +
    `<pre tabindex="0"><code>${body}</code></pre></div>`
  );
}

function rendererOn(Renderer) {
  return {
    html({ text, block }) {
      return harmlessHtml(text, block);
    },
    link({ href, tokens }) {
      return linkHtml(href, this.parser.parseInline(tokens));
    },
    // A picture would be a request to somebody's server: it is shown as a link.
    image({ href, text }) {
      return linkHtml(href, escapeHtml(text || href));
    },
    code({ text, lang }) {
      return codeHtml(text, lang);
    },
    checkbox({ checked }) {
      return checked ? "☑ " : "☐ ";
    },
    table(token) {
      return `<div class="table" tabindex="0">${Renderer.prototype.table.call(this, token)}</div>`;
    },
    tablecell(token) {
      const cell = Renderer.prototype.tablecell.call(this, token);
      return token.text.length <= SHORT_CELL ? cell.replace(/^<t[dh]/u, '$& class="short"') : cell;
    },
  };
}

/** From memory where the same was asked for before, so that a growing answer is cheap. */
function kept(key, make) {
  const full = `${spoken()}\0${key}`;
  let html = made.get(full);
  if (html === undefined) {
    html = purifier.sanitize(make(), ALLOWED);
    if (made.size >= KEPT_BLOCKS) made.clear();
    made.set(full, html);
  }
  return html;
}

function plainHtml(text) {
  return `<div class="plain">${escapeHtml(text)}</div>`;
}

const isPlain = (text) => !marked || new RegExp(`[^\\n]{${LONGEST_LINE}}`, "u").test(text);

/** The top-level tokens of a text; what stands between <details> and </details> goes together. */
function groupsOf(text) {
  const groups = [];
  let depth = 0;
  for (const token of marked.lexer(text)) {
    if (token.type === "space" || token.type === "def") continue;
    if (depth > 0) groups.at(-1).push(token);
    else groups.push([token]);
    if (token.type === "html") depth = Math.max(0, depth + opensDetails(token.text));
  }
  return groups;
}

/** The HTML of each top-level block of an answer. */
export function blocksOf(text) {
  if (isPlain(text)) return [plainHtml(text)];
  return groupsOf(text).map((tokens) => kept(tokens.map((token) => token.raw).join(""), () => marked.parser(tokens)));
}

/** The HTML of a question: code and formulas are set, everything else stays as it was typed. */
export function questionBlocks(text) {
  if (isPlain(text)) return [plainHtml(text)];
  const blocks = [];
  for (const token of marked.lexer(text)) {
    const fenced = token.type === "code" && token.codeBlockStyle !== "indented";
    if (fenced) blocks.push({ code: token });
    else if (blocks.length && !blocks.at(-1).code) blocks.at(-1).raw += token.raw;
    else blocks.push({ raw: token.raw });
  }
  return blocks
    .filter(({ code, raw }) => code || raw.trim())
    .map(({ code, raw }) =>
      code
        ? kept(`q${code.raw}`, () => codeHtml(code.text, code.lang))
        : kept(`q${raw}`, () => `<div class="plain">${inlineOf(raw.replace(/^\n+|\n+$/gu, ""))}</div>`),
    );
}

/** Inline code and formulas in a text that is otherwise as it was typed. */
function inlineOf(text) {
  const parts = text.split(/(`[^`\n]+`)/u);
  return parts
    .map((part, index) =>
      index % 2
        ? `<code>${escapeHtml(part.slice(1, -1))}</code>`
        : splitMath(part)
            .map((piece) => (piece.math ? mathHtml(piece.raw, piece.display) : escapeHtml(piece.raw)))
            .join(""),
    )
    .join("");
}
