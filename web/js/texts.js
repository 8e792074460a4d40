// What the live view says, in the language of the frontend.
//
// English stands where it is said and is the key to its translation in locales/<language>/main.json: in `live` the
// words that are put together here, in `notes` complete texts, which the server makes too and tells in English.
// In both, <name> is something that varies.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const SETTING = "Comfy.Locale";
const ENGLISH = { language: "en", live: {}, notes: {}, patterns: [] };

let texts = ENGLISH;
let wanted = ENGLISH.language;
let translations = null; // a promise of all that the server has
const changed = new EventTarget();

/** The language that is spoken: English until another one's texts are here, and where there are none. */
export const language = () => texts.language;

/** Call a function whenever another language is spoken. */
export const onLanguage = (listener) => changed.addEventListener("change", listener);

/** In the user's language, with values in place of <name>s. */
export const say = (english, values) => fill(texts.live[english] ?? english, values);

/** In English, for `translate` to translate when it is shown. */
export const later = (english, values) => fill(english, values);

/** A complete text, and what it quotes, in the user's language; one that is not known stays as it is. */
export function translate(text) {
  if (Object.hasOwn(texts.notes, text)) return texts.notes[text];
  for (const { pattern, translated } of texts.patterns) {
    const found = pattern.exec(text);
    if (!found) continue;
    const values = Object.entries(found.groups ?? {}).map(([name, value]) => [name, translate(value)]);
    return fill(translated, Object.fromEntries(values));
  }
  return text;
}

const fill = (text, values = {}) => text.replace(/<(\w+)>/g, (whole, name) => values[name] ?? whole);

function patternOf(english) {
  const literal = english.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`^${literal.replace(/<(\w+)>/g, "(?<$1>.+)")}$`, "s");
}

const patternsOf = (notes) =>
  Object.entries(notes).map(([english, translated]) => ({ pattern: patternOf(english), translated }));

/** Speak the frontend's language from now on. */
export function followLanguage() {
  app.ui?.settings?.addEventListener(`${SETTING}.change`, ({ detail }) => learn(detail.value));
  learn(app.extensionManager?.setting?.get(SETTING));
}

async function learn(locale) {
  wanted = locale;
  const found = locale === ENGLISH.language ? undefined : (await allTranslations())[locale]?.SAG;
  if (wanted !== locale) return; // another one since
  const next = found ? { ...ENGLISH, ...found, language: locale, patterns: patternsOf(found.notes ?? {}) } : ENGLISH;
  if (next.language === texts.language) return;
  texts = next;
  changed.dispatchEvent(new Event("change"));
}

async function allTranslations() {
  try {
    return await (translations ??= api.getCustomNodesI18n());
  } catch (error) {
    translations = null;
    console.warn("SAG: texts in other languages could not be loaded:", error);
    return {};
  }
}
