// Starts the page.

import { Chat } from "./state/chat.js";
import { Preferences } from "./state/preferences.js";
import { languageFor, speak } from "./language/words.js";
import { loadMarkdown } from "./text/markdown.js";
import { html, render } from "./view/html.js";
import { Page } from "./view/page.js";

const preferences = new Preferences();
const chat = new Chat(preferences);

speak(languageFor(preferences.get("language")));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => preferences.applyTheme());
addEventListener("pagehide", () => chat.leave());
const place = document.getElementById("page");
place.replaceChildren();
render(html`<${Page} chat=${chat} preferences=${preferences} />`, place);
chat.start();
loadMarkdown().then(() => chat.changed());
