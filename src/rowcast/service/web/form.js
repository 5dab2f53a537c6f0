// The form: what can be asked, with a proper input for each parameter, and the text it becomes.

import { byId, element, setText } from "./dom.js";

export class QuestionForm {
  #questions = [];
  #inputs = new Map();
  #select = byId("question");
  #form = byId("ask-form");
  #button = byId("ask");
  #error = byId("ask-error");

  /** `onAsk(requestText)` is awaited; meanwhile the form cannot be sent again. `onChange` tells of any other request text. */
  constructor({ onAsk, onChange }) {
    this.#form.addEventListener("input", ({ target }) => {
      if (target === this.#select) this.#showQuestion();
      else this.#preview();
      onChange();
    });
    let sending = false;
    this.#form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (sending || !this.#validate()) return;
      sending = true;
      this.#button.setAttribute("aria-disabled", "true");
      this.#button.textContent = "Asking…";
      this.say("");
      try {
        await onAsk(this.text);
      } catch (error) {
        this.say(error.message);
      } finally {
        sending = false;
        this.#button.removeAttribute("aria-disabled");
        this.#button.textContent = "Ask";
      }
    });
  }

  say(words) {
    setText(this.#error, words);
  }

  focus() {
    this.#select.focus();
  }

  offer(questions) {
    this.#questions = questions;
    this.#select.replaceChildren(...questions.map(({ name, title }) => element("option", { value: name }, title || name)));
    this.#showQuestion();
  }

  has(name) {
    return this.#questions.some((question) => question.name === name);
  }

  /** Fill the form with a question, ready to be asked. */
  choose(name) {
    this.#select.value = name;
    this.#showQuestion();
    this.#button.focus();
  }

  /** How a question is called for people; its name if the catalogue does not have it. */
  titleOf(requestText) {
    const name = nameIn(requestText);
    return this.#questions.find((question) => question.name === name)?.title || name;
  }

  get #question() {
    return this.#questions[this.#select.selectedIndex];
  }

  get text() {
    const values = {};
    for (const { name, type } of this.#question?.parameters ?? []) {
      const input = this.#inputs.get(name);
      const value = input.type === "checkbox" ? String(input.checked) : input.value.trim();
      if (value !== "") values[name] = kindOf(type) === "number" && input.type === "number" ? String(Number(value)) : value;
    }
    return requestText(this.#question?.name ?? "", values);
  }

  #showQuestion() {
    this.#inputs.clear();
    const fields = (this.#question?.parameters ?? []).map((parameter) => this.#field(parameter));
    byId("parameters").replaceChildren(...fields);
    setText(byId("question-description"), this.#question?.description ?? "");
    this.say("");
    this.#preview();
  }

  #field(parameter) {
    const id = `parameter-${parameter.name}`;
    const input = inputFor(parameter, id);
    this.#inputs.set(parameter.name, input);
    const label = element("label", { for: id }, spoken(parameter.name));
    const hint = [parameter.description, rangeOf(parameter)].filter(Boolean).join(" ");
    if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
    return element("div", { class: input.type === "checkbox" ? "field check" : "field" }, label, input, hint && element("span", { class: "hint", id: `${id}-hint` }, hint));
  }

  #preview() {
    setText(byId("request-preview"), this.text);
  }

  #validate() {
    if (!this.#question) {
      this.say("There is no question to ask yet. Reload the page to load them again.");
      return false;
    }
    for (const [name, input] of this.#inputs) {
      const valid = input.checkValidity();
      if (valid) input.removeAttribute("aria-invalid");
      else {
        input.setAttribute("aria-invalid", "true");
        this.say(`${spoken(name)}: ${input.validationMessage}`);
        input.focus();
        return false;
      }
    }
    return true;
  }
}

const spoken = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");

function kindOf(type = "") {
  if (/int|num|float|double|real|decimal/i.test(type)) return "number";
  if (/bool/i.test(type)) return "boolean";
  return /^date$/i.test(type) ? "date" : "text";
}

function inputFor(parameter, id) {
  const { type, default: standard, minimum, maximum, choices } = parameter;
  const value = standard === null || standard === undefined ? "" : String(standard);
  if (choices?.length) {
    return element("select", { id, autocomplete: "off" }, ...choices.map((choice) => element("option", { value: String(choice), selected: String(choice) === value }, String(choice))));
  }
  const required = parameter.required || value !== "";
  switch (kindOf(type)) {
    case "number":
      return element("input", { id, type: "number", value, required, min: minimum, max: maximum, step: /int/i.test(type) ? "1" : "any", inputmode: "numeric", autocomplete: "off" });
    case "boolean":
      return element("input", { id, type: "checkbox", checked: value === "true", autocomplete: "off" });
    case "date":
      return element("input", { id, type: "date", value, required, min: minimum, max: maximum, autocomplete: "off" });
    default:
      return element("input", { id, type: "text", value, required, minlength: parameter.minimum_length, maxlength: parameter.maximum_length ?? 200, autocomplete: "off" });
  }
}

function rangeOf({ choices, minimum, maximum }) {
  if (choices?.length) return "";
  const has = (value) => value !== null && value !== undefined;
  if (has(minimum) && has(maximum)) return `${minimum} to ${maximum}.`;
  if (has(minimum)) return `From ${minimum}.`;
  return has(maximum) ? `Up to ${maximum}.` : "";
}

/** `name key=value key="two words"`: the notation of requests, quoted where a value would otherwise be split. */
function requestText(name, values) {
  const quoted = (value) => (/^[\w.:+-]+$/.test(value) ? value : `"${value.replace(/["\\]/g, "\\$&")}"`);
  return [name, ...Object.entries(values).map(([key, value]) => `${key}=${quoted(value)}`)].join(" ");
}

function nameIn(text) {
  if (text.startsWith("{")) {
    try { return JSON.parse(text).question ?? text; } catch { return text; }
  }
  return text.split(/\s/, 1)[0];
}
