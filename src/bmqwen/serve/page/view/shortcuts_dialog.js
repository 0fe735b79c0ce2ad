// The keys that the page knows.

import { say } from "../language/words.js";
import { Dialog } from "./dialog.js";
import { html } from "./html.js";

const apple = /Mac|iP(hone|ad|od)/u.test(navigator.platform);

export function ShortcutsDialog({ onClose }) {
  const keysOf = (keys) => (apple ? keys.replace("Ctrl", "⌘").replace("Shift", "⇧") : keys).split(" ");
  return html`<${Dialog} title=${say("keyboard")} onClose=${onClose}>
    <dl class="shortcuts">
      ${say("shortcuts").map(
        ([keys, does]) => html`<div key=${keys}>
          <dt>${keysOf(keys).map((name) => html`<kbd key=${name}>${name}</kbd>`)}</dt>
          <dd>${does}</dd>
        </div>`,
      )}
    </dl>
    <form method="dialog" class="dialog-foot"><button class="button">${say("close")}</button></form>
  <//>`;
}
