// Plays the pieces of a text one after the other, each as soon as it is there. Gradio's own streaming needs FFmpeg on the
// server, and a stream of a single chunk does not sound.

const status = element.querySelector("[role=status]");
const bar = element.querySelector("progress");
const audio = element.querySelector("audio");
let run = null;
let stopped = null; // a run of which nothing more is to be said or heard
let pieces = [];
let next = 0;

function play() {
  if (next >= pieces.length) return;
  audio.src = pieces[next++].url;
  audio.hidden = false;
  // Where the browser wants a press first, the player is there to be pressed.
  audio.play().catch(() => {});
}

audio.addEventListener("ended", play);

function show() {
  const value = props.value;
  // The last message of a run may come after that of the stop button.
  if (!value || (value.run !== null && value.run === stopped)) return;
  status.textContent = value.text;
  bar.hidden = value.state !== "speaking";
  if (value.share === null) bar.removeAttribute("value");
  else bar.value = value.share;
  if (value.state === "stopped") {
    stopped = run;
    audio.pause();
    pieces = [];
    return;
  }
  if (value.run !== run) {
    run = value.run;
    pieces = [];
    next = 0;
    audio.pause();
    audio.removeAttribute("src");
    audio.hidden = true;
  }
  const waits = next === pieces.length && (next === 0 || audio.ended);
  pieces = value.pieces;
  if (next === 0 || waits) play();
}

watch("value", show);
show();
