// One sampling setting: a number field, for some with a slider. Empty means the server's default, which it shows.

import { readSetting } from "../conversation/settings.js";
import { say } from "../language/words.js";
import { html, useEffect, useState } from "./html.js";

/** `value`: the conversation's own number or null; `standard`: the server's default or null. */
export function SettingField({ field, value, standard, onChange }) {
  const { name, min, max, step, slider } = field;
  const [typed, setTyped] = useState(value === null ? "" : String(value));
  const [wrong, setWrong] = useState(false);

  // Set from elsewhere (back to the defaults): show that.
  useEffect(() => {
    if (readSetting(field, typed) !== value && !wrong) setTyped(value === null ? "" : String(value));
  }, [value]);

  const change = (text, incomplete = false) => {
    const read = readSetting(field, text);
    setTyped(text);
    setWrong(incomplete || (read === null && text.trim() !== ""));
    onChange(read);
  };
  const placeholder = standard ?? say({ max_tokens: "unlimited", seed: "random" }[name] ?? "auto");
  const help = `help-${name}`;

  return html`<div class="setting">
    <label for=${`setting-${name}`}>${say("field")[name]}</label>
    ${slider &&
    html`<input type="range" tabindex="-1" aria-hidden="true" ...${{ min, max, step }} value=${value ?? standard ?? min} onInput=${(event) => change(event.target.value)} />`}
    <input
      id=${`setting-${name}`}
      type="number"
      inputmode="decimal"
      ...${{ min, max, step, placeholder }}
      value=${typed}
      aria-describedby=${help}
      aria-invalid=${String(wrong)}
      onInput=${(event) => change(event.target.value, event.target.validity.badInput)}
    />
    <p id=${help} class=${wrong ? "wrong" : ""}>${wrong ? say("outOfRange", min, max) : say("fieldHelp")[name]}</p>
  </div>`;
}
