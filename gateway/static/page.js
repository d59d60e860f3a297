// The page of one session: uploads recordings, creates jobs, lists them and refreshes the list.
"use strict";

const REFRESH_MS = 2000;
const PAGE = 50;
const FORMATS = ["txt", "srt", "vtt", "md", "tsv", "json"];
const STRETCHES_SHOWN = 5;
const ENDED = ["complete", "failed", "canceled"];
const STATUS_TEXT = { queued_remote: "waiting for a worker" };

const byId = (id) => document.getElementById(id);
let csrfToken = "";
let shown = PAGE;

// A session that the gateway no longer knows (it was restarted without GATEWAY_SECRET_KEY) is begun anew, once.
async function ask(path, options = {}, again = true) {
  const headers = { "X-CSRF-Token": csrfToken, ...(options.headers || {}) };
  const response = await fetch(path, { ...options, headers }).catch(() => {
    throw new Error("The gateway does not answer. Check that it runs.");
  });
  const answer = await response.json().catch(() => ({ error: `The gateway answered ${response.status}.` }));
  if (again && ["UNAUTHENTICATED", "CSRF_INVALID"].includes(answer.code)) {
    await beginSession();
    return ask(path, options, false);
  }
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function tell(problem) {
  byId("problem").textContent = problem;
  byId("problem").hidden = !problem;
}

async function beginSession() {
  csrfToken = (await ask("/api/session", {}, false)).csrfToken;
}

// --- what is sent

function upload(files, onProgress) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    for (const file of files) form.append("files", file, file.name);
    const request = new XMLHttpRequest();  // fetch tells nothing of an upload's progress
    request.open("POST", "/api/uploads");
    request.setRequestHeader("X-CSRF-Token", csrfToken);
    request.responseType = "json";
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.onerror = () => reject(new Error("The upload was cut. Check the connection and try again."));
    request.onload = () => {
      if (request.status === 200) resolve(request.response);
      else reject(new Error(request.response?.error || `The gateway answered ${request.status}.`));
    };
    request.send(form);
  });
}

function chosenOptions() {
  const speakers = Number(byId("maxSpeakers").value);
  const options = {
    model: byId("model").value.trim() || null,
    language: byId("language").value.trim() || null,
    maxSpeakers: speakers || null,
  };
  for (const id of ["diarizationEnabled", "speakerPerChannel", "wordTimestamps", "useRemoteWorker"]) {
    options[id] = byId(id).checked;
  }
  return options;
}

async function send(event) {
  event.preventDefault();
  const files = [...byId("files").files];
  if (!files.length) return tell("Choose at least one recording.");
  const uploaded = { uploads: [], errors: [] };
  setSending(true, "Uploading…");
  tell("");
  try {
    const answer = await upload(files, (part) => { byId("sent").value = part; });
    Object.assign(uploaded, answer);
    if (uploaded.uploads.length) {
      const body = { uploadIds: uploaded.uploads.map((each) => each.id), options: chosenOptions() };
      await ask("/api/jobs", { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
    }
    byId("form").reset();
    showChosen();
    tell(uploaded.errors.map((each) => `${each.filename}: ${each.error}`).join("\n"));
  } catch (error) {
    tell(error.message);
  }
  setSending(false, "");
  await refresh();
}

function setSending(active, text) {
  byId("send").disabled = active;
  byId("sent").hidden = !active;
  byId("sent").value = 0;
  byId("sending").textContent = text;
}

function showChosen() {
  const files = [...byId("files").files];
  const named = files.length === 1 ? files[0].name : `${files.length} recordings`;
  byId("chosen").textContent = files.length ? named : "Choose recordings, or drop them here";
}

// --- what is shown

function clock(seconds) {
  if (seconds === null) return "";
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, "0");
  return whole >= 3600
    ? `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`
    : `${Math.floor(whole / 60)}:${two(whole % 60)}`;
}

function timeLeft(seconds) {
  if (seconds === null) return "";
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return "less than a minute left";
  return minutes < 60 ? `about ${minutes} min left` : `about ${Math.floor(minutes / 60)} h ${minutes % 60} min left`;
}

function detail(job) {
  const where = job.executionMode === "remote" ? "remote" : "this machine";
  const running = job.status === "running";
  const stage = running ? `${job.progress.stage} ${Math.floor(job.progress.percent)} %` : "";
  const left = running ? timeLeft(job.progress.secondsLeft) : "";
  const created = job.createdAt ? new Date(job.createdAt).toLocaleString() : "";
  return [clock(job.audioDurationSeconds), where, stage, left, job.message, created].filter(Boolean).join(" · ");
}

function silence(job) {
  const stretches = job.status === "complete" ? job.silentStretches : [];
  if (!stretches.length) return "";
  const shown = stretches.slice(0, STRETCHES_SHOWN).map(({ start, end }) => `${clock(start)}–${clock(end)}`);
  if (stretches.length > shown.length) shown.push("…");
  const many = stretches.length === 1 ? "1 stretch" : `${stretches.length} stretches`;
  return `${many} with voice gave no words: ${shown.join(", ")}`;
}

function links(job) {
  if (job.status !== "complete") return [];
  return FORMATS.map((format) => {
    const link = document.createElement("a");
    link.href = `/api/jobs/${job.jobId}/transcript?format=${format}`;
    link.textContent = format;
    return link;
  });
}

function show(item, job) {
  const part = (selector) => item.querySelector(selector);
  const ended = ENDED.includes(job.status);
  part(".name").textContent = job.filename;
  part(".badge").textContent = STATUS_TEXT[job.status] || job.status;
  part(".badge").className = `badge ${job.status}`;
  part("progress").hidden = job.status !== "running";
  part("progress").value = job.progress.percent;
  part(".detail").textContent = detail(job);
  part(".silent").textContent = silence(job);
  part(".silent").hidden = !part(".silent").textContent;
  part(".error").hidden = !job.lastErrorMessage || job.status === "canceled";
  part(".error").textContent = `${job.lastErrorMessage} (${job.lastErrorCode})`;
  if (part(".links").dataset.status !== job.status) {
    part(".links").replaceChildren(...links(job));
    part(".links").dataset.status = job.status;
  }
  part(".cancel").hidden = ended;
  part(".delete").hidden = !ended;
}

function newItem(job) {
  const item = byId("job").content.firstElementChild.cloneNode(true);
  item.dataset.id = job.jobId;
  const act = (path, method) => async () => {
    try {
      await ask(`/api/jobs/${job.jobId}${path}`, { method });
      tell("");
    } catch (error) {
      tell(error.message);
    }
    await refresh();
  };
  item.querySelector(".cancel").addEventListener("click", act("/cancel", "POST"));
  item.querySelector(".delete").addEventListener("click", act("", "DELETE"));
  return item;
}

async function showJobs() {
  const status = byId("status").value;
  const { jobs, nextPageToken } = await ask(`/api/jobs?pageSize=${shown}${status ? `&status=${status}` : ""}`);
  const list = byId("jobs");
  const items = new Map([...list.children].map((item) => [item.dataset.id, item]));
  const wanted = jobs.map((job) => {
    const item = items.get(job.jobId) || newItem(job);
    show(item, job);
    return item;
  });
  wanted.forEach((item, place) => { if (list.children[place] !== item) list.insertBefore(item, list.children[place] || null); });
  while (list.children.length > wanted.length) list.lastElementChild.remove();
  byId("none").hidden = jobs.length > 0;
  byId("more").hidden = !nextPageToken;
}

async function showRuntime() {
  const { remoteWorker, workers, localWorker, queue } = await ask("/api/runtime");
  const up = workers.filter((worker) => worker.connected).length;
  const where = remoteWorker.mode === "off" ? "runs on this machine" : `${up} of ${workers.length} workers connected`;
  byId("runtime").textContent = `${where} · ${queue.running} running · ${queue.queued + queue.queuedRemote} waiting`;
  byId("remoteChoice").hidden = remoteWorker.mode !== "optional";
  const models = [...workers, localWorker].flatMap((worker) => worker?.workerCapabilities.models || []);
  const notes = new Map(models.map((model) => [model.name, model.note || ""]));
  const names = [...notes.keys()].join();
  if (names === byId("models").dataset.names) return;
  const options = [...notes].map(([value, label]) => Object.assign(document.createElement("option"), { value, label }));
  byId("models").replaceChildren(...options);
  byId("models").dataset.names = names;
}

let refreshing = null;
function refresh() {
  refreshing ??= Promise.all([showJobs(), showRuntime()])
    .catch((error) => { byId("runtime").textContent = error.message; })
    .finally(() => { refreshing = null; });
  return refreshing;
}

async function live() {
  if (!document.hidden) await refresh();
  setTimeout(live, REFRESH_MS);
}

function begin() {
  byId("form").addEventListener("submit", send);
  byId("files").addEventListener("change", showChosen);
  byId("speakerPerChannel").addEventListener("change", (event) => {
    if (event.target.checked) byId("diarizationEnabled").checked = true;
  });
  byId("diarizationEnabled").addEventListener("change", (event) => {
    if (!event.target.checked) byId("speakerPerChannel").checked = false;
  });
  byId("status").addEventListener("change", refresh);
  byId("more").addEventListener("click", () => { shown = Math.min(shown + PAGE, 1000); refresh(); });
  const drop = byId("drop");
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    });
  }
  drop.addEventListener("drop", (event) => { byId("files").files = event.dataTransfer.files; showChosen(); });
}

begin();
beginSession().then(live, (error) => tell(error.message));
