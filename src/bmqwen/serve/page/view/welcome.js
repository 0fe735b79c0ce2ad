// What an empty conversation shows.

import { say } from "../language/words.js";
import { html } from "./html.js";

export function Welcome({ chat, onAsk }) {
  return html`<div class="scroller welcome-scroller">
    <div class="welcome">
      <h2>${say("welcome")}</h2>
      <p>${say("welcomeText")}</p>
      <ul>
        ${say("examples").map(
          (example) =>
            html`<li key=${example}><button type="button" disabled=${!chat.info} onClick=${() => onAsk(example)}>${example}</button></li>`,
        )}
      </ul>
    </div>
  </div>`;
}
