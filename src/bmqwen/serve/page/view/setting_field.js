// One sampling setting: a number field, for some with a slider; or a switch. Empty means the server's default, which it shows.

import { readSetting } from "../conversation/settings.js";
import { say, spoken } from "../language/words.js";
import { html, useEffect, useState } from "./html.js";

/** `value`: the conversation's own number or switch, or null. */
export function SettingField({ setting, value, onChange }) {
  const Field = setting.kind === "switch" ? SwitchField : NumberField;
  return html`<${Field} ...${{ setting, value, onChange }} />`;
}

function SwitchField({ setting, value, onChange }) {
  const { name, default: unset } = setting;
  const { label, help: remark } = setting.words[spoken()];
  const change = ({ target: { checked } }) => onChange(checked === unset ? null : checked);
  return html`<div class="setting">
    <label for=${`setting-${name}`}>${label}</label>
    <input id=${`setting-${name}`} type="checkbox" checked=${value ?? unset} aria-describedby=${`help-${name}`} onChange=${change} />
    <p id=${`help-${name}`}>${remark}</p>
  </div>`;
}

function NumberField({ setting, value, onChange }) {
  const { name, step, slider } = setting;
  const min = setting.above ? step : setting.low;
  const max = Math.min(setting.high, Number.MAX_SAFE_INTEGER);
  const { label, help: remark } = setting.words[spoken()];
  const [typed, setTyped] = useState(value === null ? "" : String(value));
  const [wrong, setWrong] = useState(false);

  // Set from elsewhere (back to the defaults): show that.
  useEffect(() => {
    if (readSetting(setting, typed) !== value && !wrong) setTyped(value === null ? "" : String(value));
  }, [value]);

  const change = (text, incomplete = false) => {
    const read = readSetting(setting, text);
    setTyped(text);
    setWrong(incomplete || (read === null && text.trim() !== ""));
    onChange(read);
  };
  const placeholder = setting.default ?? say("unset");
  const help = `help-${name}`;

  return html`<div class="setting">
    <label for=${`setting-${name}`}>${label}</label>
    ${slider &&
    html`<input type="range" tabindex="-1" aria-hidden="true" ...${{ min, max, step }} value=${value ?? setting.default ?? min} onInput=${(event) => change(event.target.value)} />`}
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
    <p id=${help} class=${wrong ? "wrong" : ""}>${wrong ? say("outOfRange", min, max) : remark}</p>
  </div>`;
}
