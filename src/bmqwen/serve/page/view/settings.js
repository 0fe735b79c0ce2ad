// The settings of the open conversation, and what the server runs.

import { settingsOf } from "../conversation/settings.js";
import { say } from "../language/words.js";
import { Facts } from "./about_dialog.js";
import { html, useEffect, useRef } from "./html.js";
import { Icon } from "./icon.js";
import { Presets } from "./presets.js";
import { SettingField } from "./setting_field.js";

export function Settings({ chat, onClose }) {
  const { open, info } = chat;
  const closer = useRef(null);
  useEffect(() => closer.current.focus(), []);
  const settings = settingsOf(info);
  const changed = settings.some(({ name }) => Object.hasOwn(open.settings, name));

  return html`<aside class="settings" aria-label=${say("settings")}>
    <div class="settings-top">
      <h2>${say("settings")}</h2>
      <button ref=${closer} type="button" class="icon-button" aria-label=${say("closeSettings")} title=${say("closeSettings")} onClick=${onClose}>
        <${Icon} name="close" />
      </button>
    </div>
    <div class="settings-body" tabindex="0" key=${`${open.id} ${chat.preferences.get("preset")}`}>
      <${Presets} chat=${chat} />
      <p class="quiet">${say("forThisChat")}</p>
      <label class="system">
        <span>${say("systemPrompt")}</span>
        <textarea rows="4" dir="auto" placeholder=${say("systemHint")} value=${open.system} onInput=${(event) => chat.setSystem(event.target.value)}></textarea>
      </label>
      <fieldset>
        <legend>${say("sampling")}</legend>
        ${settings.map(
          (setting) => html`<${SettingField}
            key=${setting.name}
            setting=${setting}
            value=${open.settings[setting.name] ?? null}
            onChange=${(value) => chat.setSetting(setting.name, value)}
          />`,
        )}
        <button type="button" class="button" disabled=${!changed} onClick=${() => settings.forEach(({ name }) => chat.setSetting(name, null))}>
          ${say("allDefaults")}
        </button>
      </fieldset>
      <label class="overflow">
        <span>${say("overflow")}</span>
        <select value=${chat.preferences.get("overflow")} onChange=${(event) => chat.preferences.set("overflow", event.target.value)}>
          <option value="drop">${say("overflowDrop")}</option>
          <option value="refuse">${say("overflowRefuse")}</option>
        </select>
      </label>
      ${info && html`<section><h3>${say("served")}</h3><${Facts} info=${info} /></section>`}
    </div>
  </aside>`;
}
