// The settings of the open conversation, and what the server runs.

import { settingsOf } from "../conversation/settings.js";
import { number, say } from "../language/words.js";
import { html, useEffect, useRef } from "./html.js";
import { Icon } from "./icon.js";
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
    <div class="settings-body" key=${open.id}>
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
      ${info && html`<${Facts} info=${info} />`}
    </div>
  </aside>`;
}

function Facts({ info }) {
  const facts = [
    ["model", info.model],
    ["precision", info.precision],
    ["engine", info.engine],
    ["contextSize", say("tokens", number(info.context_length))],
    ["serverVersion", info.version],
  ];
  return html`<section class="facts">
    <h3>${say("served")}</h3>
    <dl>
      ${facts.map(([key, value]) => html`<div key=${key}><dt>${say(key)}</dt><dd>${value}</dd></div>`)}
    </dl>
  </section>`;
}
