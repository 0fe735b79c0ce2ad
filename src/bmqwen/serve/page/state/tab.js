// A name for this tab that a reload keeps: an answer that it was writing before was cut off by the reload.

import { newId } from "../conversation/tree.js";

function nameOfTab() {
  try {
    const name = sessionStorage.getItem("bmqwen.tab") ?? newId();
    sessionStorage.setItem("bmqwen.tab", name);
    return name;
  } catch {
    return newId();
  }
}

export const thisTab = nameOfTab();
