// Hooks that draw a part again when something outside has changed.

import { useEffect, useState } from "./html.js";

/** Draw again after "change" events of a target, once a frame at most. */
export function useChanges(target) {
  const [, setCount] = useState(0);
  useEffect(() => {
    let frame = 0;
    const draw = () => {
      frame = 0;
      setCount((count) => count + 1);
    };
    const onChange = () => {
      frame ||= requestAnimationFrame(draw);
    };
    target.addEventListener("change", onChange);
    onChange();
    return () => {
      target.removeEventListener("change", onChange);
      cancelAnimationFrame(frame);
    };
  }, [target]);
}

function useMedia(condition) {
  const query = matchMedia(condition);
  const [met, setMet] = useState(query.matches);
  useEffect(() => {
    const onChange = () => setMet(query.matches);
    query.addEventListener("change", onChange);
    return () => query.removeEventListener("change", onChange);
  }, []);
  return met;
}

/** Is the window as narrow as a phone's? The same border is in styles/layout.css. */
export const useNarrow = () => useMedia("(max-width: 860px)");

/** Is there room for the settings beside the conversation? The same border is in styles/layout.css. */
export const useWide = () => useMedia("(min-width: 1200px)");
