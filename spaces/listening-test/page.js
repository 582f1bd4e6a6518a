// One page of a listening test, out of what `page_content` in app.py sends. Texts go in as text, never as markup.

const sheet = element.querySelector(".sheet");
let page = null;
let current = null; // the recording that was played last

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function player(url, label) {
  const audio = make("audio", { src: url, controls: true, preload: "auto", "aria-label": label });
  audio.setAttribute("controlslist", "nodownload noplaybackrate");
  audio.addEventListener("play", () => {
    audio.dataset.heard = "yes";
    for (const other of sheet.querySelectorAll("audio")) if (other !== audio) other.pause();
    // Going on where the other one was lets a difference be heard at the moment it happens.
    if (page.synchronised && current && current !== audio && !current.ended && audio.duration) {
      audio.currentTime = Math.min(current.currentTime, audio.duration);
    }
    current = audio;
  });
  return audio;
}

function slider(label) {
  const [low, high] = page.scale;
  const number = make("output", {}, "–");
  const input = make("input", { type: "range", min: low, max: high, step: 1, value: (low + high) / 2 });
  input.setAttribute("aria-label", `${label}: ${low} ${page.marks[0]} to ${high} ${page.marks.at(-1)}`);
  const moved = () => {
    input.dataset.moved = "yes";
    number.textContent = input.value;
  };
  // "input" alone would not do: the middle may be meant.
  for (const event of ["input", "pointerup", "keyup"]) {
    input.addEventListener(event, (happening) => happening.key !== "Tab" && moved());
  }
  const marks = make("div", { className: "marks", "aria-hidden": "true" }, ...page.marks.map((mark) => make("span", {}, mark)));
  return make("div", { className: "rating" }, input, number, marks);
}

function choices() {
  const options = page.choices.map(([value, text]) =>
    make("label", {}, make("input", { type: "radio", name: "score", value }), text)
  );
  return make("fieldset", {}, make("legend", {}, "Your answer"), ...options);
}

function missing() {
  const unheard = [...sheet.querySelectorAll("audio")].find((audio) => !audio.dataset.heard);
  if (unheard) return [unheard, "Please play every recording first."];
  const unmoved = [...sheet.querySelectorAll("input[type=range]")].find((input) => !input.dataset.moved);
  if (unmoved) return [unmoved, "Please rate every recording."];
  if (page.choices && !sheet.querySelector("input:checked")) {
    return [sheet.querySelector("input[type=radio]"), "Please choose an answer."];
  }
  return null;
}

function submit(button, alert) {
  const lack = missing();
  if (lack) {
    lack[0].focus();
    alert.textContent = lack[1];
    return;
  }
  const scores = page.choices
    ? [Number(sheet.querySelector("input:checked").value)]
    : [...sheet.querySelectorAll("input[type=range]")].map((input) => Number(input.value));
  alert.textContent = "";
  button.disabled = true;
  // Where the server refuses, or the network fails, no new page comes.
  setTimeout(() => (button.disabled = false), 4000);
  for (const audio of sheet.querySelectorAll("audio")) audio.pause();
  trigger("submit", { code: page.code, number: page.number, scores });
}

function show() {
  page = props.value;
  current = null;
  if (!page || !page.title) return;
  const title = make("h2", { tabIndex: -1 }, page.title);
  const codeLabel = page.done ? "Your code: " : "Your code, to go on later: ";
  const code = make("p", { className: "step" }, codeLabel, make("span", { className: "code" }, page.code));
  const nodes = [title];
  if (page.done) {
    nodes.push(make("p", {}, "All your answers are saved. Thank you."), code);
  } else {
    nodes.push(make("p", { className: "step" }, page.step), make("p", {}, page.question));
    if (page.note) nodes.push(make("p", { className: "note" }, page.note));
    if (page.reference) {
      nodes.push(make("div", { className: "recording" }, make("h3", {}, "Reference"), player(page.reference, "Reference")));
    }
    for (const { label, url } of page.stimuli) {
      const box = make("div", { className: "recording" }, make("h3", {}, label), player(url, label));
      if (!page.choices) box.append(slider(label));
      nodes.push(box);
    }
    if (page.choices) nodes.push(choices());
    const alert = make("div", { role: "alert" });
    const button = make("button", { type: "button" }, "Next");
    button.addEventListener("click", () => submit(button, alert));
    nodes.push(alert, button, code);
  }
  sheet.replaceChildren(...nodes);
  title.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

watch("value", show);
show();
