// What the page says, in the reader's language.

import { en } from "./en.js";
import { zh } from "./zh.js";

const LANGUAGES = { en, zh };
let current = "en";

/** "zh" or "en", for a choice ("auto", "en" or "zh") and the browser's languages. */
export function languageFor(choice, preferred = navigator.languages) {
  if (choice in LANGUAGES) return choice;
  const first = preferred.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in LANGUAGES);
  return first ?? "en";
}

/** Speak this language from now on. */
export function speak(language) {
  current = language;
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
}

export function spoken() {
  return current;
}

/** The words for a key; some take values. */
export function say(key, ...values) {
  const words = LANGUAGES[current][key];
  return typeof words === "function" ? words(...values) : words;
}

/** A number as this language writes it, with so many decimals. */
export function number(value, decimals = 0) {
  return value.toLocaleString(current === "zh" ? "zh-CN" : "en", {
    minimumFractionDigits: decimals,
    maximumFractionDigits: decimals,
  });
}

/** A day as this language writes it. */
export function day(time) {
  return new Date(time).toLocaleDateString(current === "zh" ? "zh-CN" : "en", { dateStyle: "medium" });
}
