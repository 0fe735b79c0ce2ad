// Footnotes for marked: [^name] in the text, and [^name]: its text, which stays where the model put it.

import { escapeHtml } from "./inline_html.js";

const LABEL = "\\[\\^([^\\]\\s]{1,40})\\]";

export const footnotes = [
  {
    name: "footnote",
    level: "block",
    start: (src) => src.match(/^\[\^/mu)?.index,
    tokenizer(src) {
      const found = new RegExp(`^${LABEL}:[ \\t]*([^\\n]*(?:\\n[ ]{2,}[^\\n]+)*)(?:\\n|$)`, "u").exec(src);
      if (!found) return undefined;
      return { type: "footnote", raw: found[0], label: found[1], tokens: this.lexer.inlineTokens(found[2].trim()) };
    },
    renderer({ label, tokens }) {
      return `<p class="footnote"><sup>${escapeHtml(label)}</sup> ${this.parser.parseInline(tokens)}</p>`;
    },
  },
  {
    name: "footnoteMark",
    level: "inline",
    start: (src) => src.indexOf("[^"),
    tokenizer(src) {
      const found = new RegExp(`^${LABEL}(?!:)`, "u").exec(src);
      return found ? { type: "footnoteMark", raw: found[0], label: found[1] } : undefined;
    },
    renderer({ label }) {
      return `<sup class="footnote-mark">${escapeHtml(label)}</sup>`;
    },
  },
];

