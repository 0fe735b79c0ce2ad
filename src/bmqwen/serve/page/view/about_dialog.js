// What answers here, and where programs reach it.

import { number, say } from "../language/words.js";
import { CopyButton } from "./copy_button.js";
import { Dialog } from "./dialog.js";
import { html } from "./html.js";
import { modelName } from "./model_name.js";

/** What the server runs, as a list. */
export function Facts({ info }) {
  const api = `${location.origin}/v1`;
  const facts = [
    ["model", modelName(info)],
    ["modelId", info.model],
    ["precision", info.precision],
    ["engine", info.engine],
    ["contextSize", info.context_length && say("tokens", number(info.context_length))],
    ["serverVersion", info.version],
    ["apiAddress", html`<code>${api}</code><${CopyButton} text=${api} label=${say("copyAddress")} />`],
  ];
  return html`<dl class="facts">
    ${facts.map(([key, value]) => value && html`<div key=${key}><dt>${say(key)}</dt><dd>${value}</dd></div>`)}
  </dl>`;
}

export function AboutDialog({ chat, onClose }) {
  return html`<${Dialog} title=${say("about")} onClose=${onClose}>
    <p class="quiet">${say("aboutText")}</p>
    ${chat.info && html`<${Facts} info=${chat.info} />`}
    <form method="dialog" class="dialog-foot"><button class="button">${say("close")}</button></form>
  <//>`;
}
