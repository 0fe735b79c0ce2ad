// Why there is no answer, in a sentence, and the button to try again or to change the question.

import { number, say } from "../language/words.js";
import { html, useEffect, useState } from "./html.js";
import { Icon } from "./icon.js";

// Trying again would say the same.
const TOO_LONG = ["full", "tooLong", "long"];
// Here the server's own sentence names what is wrong.
const DETAILED = ["refused", "field", "failed", "storage", "device", "address"];

/** Whole seconds until a time, counting down. */
function useSecondsUntil(time) {
  const left = () => Math.max(0, Math.ceil(((time ?? 0) - Date.now()) / 1000));
  const [seconds, setSeconds] = useState(left);
  useEffect(() => {
    if (!left()) return undefined;
    const timer = setInterval(() => setSeconds(left()), 500);
    return () => clearInterval(timer);
  }, [time]);
  return Math.min(seconds, left());
}

/** The sentence for a fault's record: {kind, tokens?, fits?}. */
export function faultWords(fault) {
  const words = say("fault")[fault?.kind] ?? say("fault").failed;
  if (typeof words !== "function") return words;
  return fault.tokens === undefined ? words() : words(number(fault.tokens), number(fault.fits));
}

/** `fault`: {kind, detail, retryAt}; missing for an answer that was imported. */
export function Failure({ fault, onRetry, onEdit }) {
  const wait = useSecondsUntil(fault?.retryAt);
  const tooLong = TOO_LONG.includes(fault?.kind);
  return html`<div class="failure" role="alert">
    <${Icon} name="warning" />
    <div>
      <p>${faultWords(fault)}</p>
      ${fault?.detail && DETAILED.includes(fault.kind) && html`<p class="detail">${say("serverSays", fault.detail)}</p>`}
    </div>
    ${tooLong
      ? html`<button type="button" class="button" onClick=${onEdit}>${say("edit")}</button>`
      : html`<button type="button" class="button" disabled=${wait > 0} onClick=${onRetry}>
          ${wait > 0 ? say("retryIn", wait) : say("retry")}
        </button>`}
  </div>`;
}
