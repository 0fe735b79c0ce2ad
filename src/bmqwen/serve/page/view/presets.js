// System prompts and settings under names: one is what new conversations begin with.

import { say } from "../language/words.js";
import { html, useState } from "./html.js";

export function Presets({ chat }) {
  const [naming, setNaming] = useState(false);
  const [name, setName] = useState("");
  const { preferences } = chat;
  const current = preferences.get("preset") ?? "";
  const names = preferences.get("presets").map((preset) => preset.name);

  const save = (event) => {
    event.preventDefault();
    const wanted = name.trim().slice(0, 60);
    if (wanted) chat.savePreset(wanted);
    setNaming(false);
    setName("");
  };
  return html`<section class="presets">
    <label>
      <span>${say("preset")}</span>
      <select value=${current} onChange=${(event) => chat.usePreset(event.target.value || null)}>
        <option value="">${say("presetNone")}</option>
        ${names.map((each) => html`<option key=${each} value=${each}>${each}</option>`)}
      </select>
    </label>
    <p class="quiet">${say("presetHelp")}</p>
    ${naming
      ? html`<form onSubmit=${save}>
          <input aria-label=${say("presetName")} placeholder=${say("presetName")} maxlength="60" value=${name} onInput=${(event) => setName(event.target.value)} />
          <button type="submit" class="button primary" disabled=${!name.trim()}>${say("save")}</button>
          <button type="button" class="button" onClick=${() => setNaming(false)}>${say("cancel")}</button>
        </form>`
      : html`<div class="preset-acts">
          <button
            type="button"
            class="link"
            onClick=${() => {
              setName(current);
              setNaming(true);
            }}
          >
            ${say("presetSave")}
          </button>
          ${current && html`<button type="button" class="link" onClick=${() => chat.removePreset(current)}>${say("presetRemove")}</button>`}
        </div>`}
  </section>`;
}
