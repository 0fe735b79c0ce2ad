// The few HTML tags that models write for looks and that can do no harm; all others are shown as text.

const HARMLESS = /<\/?(?:sub|sup|kbd|mark|details|summary)>|<details open(?:="")?>|<br\s*\/?>/giu;
const STRUCTURE = /<(?:details|summary)\b/iu;

export function escapeHtml(text) {
  return text.replace(/[&<>"']/gu, (mark) => `&#${mark.codePointAt(0)};`);
}

/** HTML with the harmless tags as such and everything else as text. */
export function harmlessHtml(text, block) {
  const tags = text.match(HARMLESS) ?? [];
  const between = text.split(HARMLESS).map(block ? lines : escapeHtml);
  const html = between.map((part, index) => part + (tags[index] ?? "")).join("");
  return block && !STRUCTURE.test(text) && !/^<\/details>\s*$/iu.test(text) ? `<p>${html}</p>` : html;
}

function lines(part) {
  return escapeHtml(part.trim()).replaceAll("\n", "<br>");
}

/** How many <details> a piece of HTML leaves open, less those that it closes. */
export function opensDetails(text) {
  return (text.match(/<details\b/giu)?.length ?? 0) - (text.match(/<\/details>/giu)?.length ?? 0);
}
