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
