// Why there is no answer, in a sentence, and the button to try again.

import { say } from "../language/words.js";
import { html, useEffect, useState } from "./html.js";
import { Icon } from "./icon.js";

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

/** `fault`: {kind, detail, retryAt}; missing for an answer that was imported. */
export function Failure({ fault, onRetry }) {
  const wait = useSecondsUntil(fault?.retryAt);
  const kind = fault?.kind in say("fault") ? fault.kind : "failed";
  return html`<div class="failure" role="alert">
    <${Icon} name="warning" />
    <div>
      <p>${say("fault")[kind]}</p>
      ${fault?.detail && html`<p class="detail">${fault.detail}</p>`}
    </div>
    <button type="button" class="button" disabled=${wait > 0} onClick=${onRetry}>
      ${wait > 0 ? say("retryIn", wait) : say("retry")}
    </button>
  </div>`;
}
