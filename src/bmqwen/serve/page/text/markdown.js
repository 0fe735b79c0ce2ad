// Markdown to safe HTML, block by block. HTML in an answer is shown as text; what is made here is sanitised once more.

import { Marked, Renderer } from "../vendor/marked.js";
import DOMPurify from "../vendor/purify.js";
import hljs from "../vendor/highlight.js";
import { say } from "../language/words.js";

const ALLOWED = {
  ALLOWED_TAGS:
    "p br hr h1 h2 h3 h4 h5 h6 strong em del a ul ol li blockquote code pre div span button table thead tbody tr th td".split(" "),
  ALLOWED_ATTR: ["href", "class", "target", "rel", "start", "align", "type"],
  ALLOW_DATA_ATTR: false,
};
const LONGEST_HIGHLIGHTED = 50_000;
const KEPT_BLOCKS = 2_000;

export function escapeHtml(text) {
  return text.replace(/[&<>"']/gu, (mark) => `&#${mark.codePointAt(0)};`);
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
  const known = hljs.getLanguage(language) && code.length <= LONGEST_HIGHLIGHTED;
  const body = known ? hljs.highlight(code, { language, ignoreIllegals: true }).value : escapeHtml(code);
  return (
    `<div class="code"><div class="code-bar"><span>${escapeHtml(language)}</span>` +
    `<button type="button" class="copy-code">${escapeHtml(say("copy"))}</button></div>` +
    `<pre><code>${body}</code></pre></div>`
  );
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html({ text, block }) {
      if (/^<br\s*\/?>$/iu.test(text.trim())) return "<br>";
      return block ? `<p>${escapeHtml(text.trim()).replaceAll("\n", "<br>")}</p>` : escapeHtml(text);
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
      return `<div class="table">${Renderer.prototype.table.call(this, token)}</div>`;
    },
  },
});

const made = new Map();

/** The HTML of each top-level block of a text. Blocks seen before come from memory, so that a growing answer is cheap. */
export function blocksOf(text) {
  return marked
    .lexer(text)
    .filter((token) => token.type !== "space" && token.type !== "def")
    .map((token) => {
      const key = `${say("copy")}\0${token.raw}`;
      let html = made.get(key);
      if (html === undefined) {
        html = DOMPurify.sanitize(marked.parser([token]), ALLOWED);
        if (made.size >= KEPT_BLOCKS) made.clear();
        made.set(key, html);
      }
      return html;
    });
}
