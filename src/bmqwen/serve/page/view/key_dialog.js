// Asks for the server's API key.

import { say } from "../language/words.js";
import { Dialog } from "./dialog.js";
import { faultWords } from "./failure.js";
import { html, useState } from "./html.js";

export function KeyDialog({ chat }) {
  const [key, setKey] = useState("");
  const [keep, setKeep] = useState(false);
  const [trouble, setTrouble] = useState(null);
  const [asking, setAsking] = useState(false);

  const submit = async (event) => {
    event.preventDefault();
    setAsking(true);
    try {
      setTrouble((await chat.useKey(key.trim(), keep)) ? null : say("keyWrong"));
    } catch (fault) {
      setTrouble(faultWords(fault.record));
    }
    setAsking(false);
  };

  return html`<${Dialog} title=${say("keyTitle")} onClose=${() => chat.wantKey(false)}>
    <form onSubmit=${submit}>
      <p>${say("keyText")}</p>
      <label class="key">
        <span>${say("keyLabel")}</span>
        <input type="password" autocomplete="off" spellcheck=${false} value=${key} aria-invalid=${String(Boolean(trouble))} onInput=${(event) => setKey(event.target.value)} />
      </label>
      <label class="check">
        <input type="checkbox" checked=${keep} onChange=${(event) => setKeep(event.target.checked)} />
        ${say("keyKeep")}
      </label>
      <p class="wrong" role="alert">${trouble}</p>
      <div class="dialog-foot">
        <button type="submit" class="button primary" disabled=${!key.trim() || asking}>${say("keyUse")}</button>
      </div>
    </form>
  <//>`;
}
