/**
 * Looks at web addresses, asks another agent about what it found, and publishes the answer.
 *
 * "look at URL ..." keeps addresses, "listen" subscribes to what other scouts publish; anything else goes and looks.
 */

import { Refused, call, lessons, operation } from "loket_guest";

const PLACES = "notes/places.txt";
const HEARD = "notes/heard.txt";
const TOPIC = "scout/";
const SHOWN = 2000; // characters of a page that the other agent is asked about

/** Answer a message; the reply is `text`. */
operation("message", ({ text, from, topic }) => {
  const urls = words(text).filter((word) => /^https?:\/\//.test(word));
  if (topic !== undefined) {
    return { text: keep(HEARD, `${from} on ${topic}: ${text}`) };
  }
  if (text.trim() === "listen") {
    return { text: `I hear ${call("message.subscribe", { topic: TOPIC }).topics.join(", ")}.` };
  }
  return urls.length > 0 ? { text: keep(PLACES, urls.join("\n")) } : scout();
});

function words(text) {
  return text.split(/\s+/).filter((word) => word !== "");
}

/** Write a text into the agent's own folder. */
function keep(path, text) {
  call("fs.write", { path, text });
  return `Kept in ${path}.`;
}

/** Look at every place once, and tell the others. Answers `text`, and `heard_by`: who got it. */
function scout() {
  const urls = words(call("fs.read", { path: PLACES }).text);
  const learned = lessons("net.fetch", 50).filter((one) => one.source === "host:lessons");
  const report = urls.map((url) => look(url, learned)).join("\n");
  return { text: report, heard_by: call("message.publish", { topic: `${TOPIC}report`, text: report }).delivered };
}

/** Look at one place, unless that was refused before. What would allow it is passed on. */
function look(url, learned) {
  const host = url.split("/")[2];
  const lesson = learned.find((one) => one.text.startsWith(`net.fetch for ${host} was refused`));
  if (lesson !== undefined) {
    return `${host}: not tried again.\n${lesson.text}`;
  }
  try {
    const page = call("net.fetch", { url }).text.slice(0, SHOWN);
    return `${host}: ${call("agent.ask", { agent: "main", text: `What is this page about? ${page}` }).text}`;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return `${host}: ${error.message}\nThis would help: ${error.remedy}`;
  }
}
