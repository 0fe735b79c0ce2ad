// How an answer comes along: the place in the queue, how much of the prompt was read, tokens a second.

import { number, say } from "../language/words.js";
import { html, useEffect, useState } from "./html.js";

// A rate over less is a guess.
const SURE_PIECES = 5;

/** Draw once a second. */
function useSeconds() {
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((count) => count + 1), 1000);
    return () => clearInterval(timer);
  }, []);
}

export function Progress({ turn }) {
  useSeconds();
  const { live } = turn;
  const words = live ? wordsFor(live) : "";
  if (live?.pieces) return html`<p class="progress remark">${words}</p>`;
  return html`<p class="waiting"><span></span><span></span><span></span>${words && html`<em>${words}</em>`}</p>`;
}

function wordsFor({ progress, pieces, first, last }) {
  if (progress?.ahead > 0) return say("ahead", progress.ahead);
  if (progress?.prompt) return say("read", number(progress.read), number(progress.prompt));
  if (pieces < SURE_PIECES || last === first) return "";
  return say("speed", number((1000 * (pieces - 1)) / (last - first), 1));
}
