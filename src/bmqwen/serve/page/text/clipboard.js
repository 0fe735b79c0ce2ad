// Copying text, also where the browser gives no clipboard (plain http on another machine's address).

import { say } from "../language/words.js";

/** Copy; true if it worked. */
export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Not allowed: the old way may be.
    }
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "offscreen";
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus?.();
  return copied;
}

/** Handler for clicks in a text: acts on the copy buttons of its code blocks. */
export async function onCodeClick(event) {
  const button = event.target.closest?.("button.copy-code");
  if (!button) return;
  const code = button.closest(".code").querySelector("pre code");
  button.textContent = say((await copyText(code.textContent)) ? "copied" : "copyFailed");
  setTimeout(() => (button.textContent = say("copy")), 1500);
}

/** Handler for copying a selection of a text: its formulas as they were written. */
export function onCopy(event) {
  const selection = getSelection();
  if (!selection.rangeCount || selection.isCollapsed) return;
  const range = selection.getRangeAt(0).cloneRange();
  const formulaAt = (node) => (node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement)?.closest(".math-set");
  const [first, last] = [formulaAt(range.startContainer), formulaAt(range.endContainer)];
  if (first) range.setStartBefore(first);
  if (last) range.setEndAfter(last);
  const copy = document.createElement("div");
  copy.append(range.cloneContents());
  const formulas = copy.querySelectorAll(".math-set");
  if (!formulas.length) return;
  for (const formula of formulas) formula.replaceWith(formula.dataset.source);
  // Only what stands in the document has lines.
  copy.className = "offscreen";
  document.body.append(copy);
  event.clipboardData.setData("text/plain", copy.innerText);
  copy.remove();
  event.preventDefault();
}
