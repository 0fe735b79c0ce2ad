// Copies a text and says so for a moment.

import { say } from "../language/words.js";
import { copyText } from "../text/clipboard.js";
import { html, useState } from "./html.js";
import { Icon } from "./icon.js";

export function CopyButton({ text, label }) {
  const [outcome, setOutcome] = useState(null);
  const act = async () => {
    setOutcome((await copyText(text)) ? "copied" : "copyFailed");
    setTimeout(() => setOutcome(null), 1500);
  };
  return html`<button type="button" class="small-button" aria-label=${label} title=${label} onClick=${act}>
    <${Icon} name="copy" />${outcome && html`<span>${say(outcome)}</span>`}
  </button>`;
}
